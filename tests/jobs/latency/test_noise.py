from fp_bench.jobs.latency.noise import Watch, summary
from fp_bench.records.environment import Gpu

STATE = {
    "sm_mhz": 1980,
    "memory_mhz": 2619,
    "power_w": 300.0,
    "temperature_c": 40,
    "throttle": [],
    "other_processes": 0,
}
BLIND = dict.fromkeys(STATE)


def test_a_round_is_summarised_by_its_extremes_and_its_median():
    hot = STATE | {
        "sm_mhz": 1500,
        "power_w": 700.0,
        "temperature_c": 71,
        "throttle": ["power_cap"],
        "other_processes": 1,
    }
    found = summary([STATE, hot, STATE, STATE])
    assert found["sm_mhz"] == {"min": 1500, "median": 1980, "max": 1980}
    assert (found["power_w"], found["temperature_c"], found["other_processes"]) == (700.0, 71, 1)
    assert found["throttle"] == {"power_cap": 0.25}
    assert found["states"] == 4


def test_what_the_driver_does_not_give_is_null():
    found = summary([BLIND, BLIND])
    assert found == {"states": 2} | BLIND
    assert summary([BLIND, STATE])["sm_mhz"]["median"] == 1980


class FakeGpu:
    problem = None

    def __init__(self, states):
        self.states = iter(states)

    def state(self, _ours):
        return next(self.states)


def test_throttled_says_whether_any_look_found_the_clocks_held_down():
    def throttled(*states):
        watch = Watch(FakeGpu(states), ours=[])
        for _ in states:
            watch.tick()
        return watch.fields()["throttled"]

    held = STATE | {"throttle": ["hw_thermal"]}
    assert throttled(held, STATE) is True
    assert throttled(STATE, held) is True
    assert throttled(STATE) is False
    assert throttled(BLIND) is None


def test_without_the_drivers_library_there_is_a_reason_and_no_number():
    fields = Watch(Gpu("00000000-0000-0000-0000-000000000000"), ours=[]).fields()
    assert fields["gpu"].keys() == {"reason"}
    assert "throttled" not in fields


def test_on_a_cpu_there_is_the_load():
    assert Watch(None, ours=[]).fields().keys() == {"load_average"}
