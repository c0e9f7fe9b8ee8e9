"""``python -m tests.jobs.two_places latency ...``: fpbench with two places, both this machine's CPU."""

from fp_bench.cli import main
from fp_bench.jobs import places


def two_here(*_, **__):
    return [places.Place.of(places.Machine.here()) for _ in range(2)]


if __name__ == "__main__":
    places.places_here = two_here
    main()
