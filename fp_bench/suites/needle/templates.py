"""The wording of two well-known needle tests: data.

``GKAMRADT_*`` are those of gkamradt/LLMTest_NeedleInAHaystack, commit 7b90d285, ``llm_needle_haystack_tester.py`` and
``providers/openai.py``; MIT, (c) 2023 its author. ``MINFERENCE_*`` are those of microsoft/MInference, commit fb56c917,
``experiments/needle_in_a_haystack/needle_tools.py``; MIT, (c) Microsoft Corporation. Both byte for byte:
https://opensource.org/license/mit
"""

GKAMRADT_NEEDLE = "\nThe best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.\n"
GKAMRADT_SYSTEM = "You are a helpful AI bot that answers questions for a user. Keep your response short and direct"
GKAMRADT_QUESTION = (
    "What is the best thing to do in San Francisco? Don't give information outside the document or repeat your findings"
)

MINFERENCE_NEEDLE = "\nThe special magic {city} number is: {rnd_number}\n"
MINFERENCE_OPENING = (
    "Write a high-quality answer for the given question using only the provided search results (some of which "
    "might be irrelevant).\n"
)
MINFERENCE_QUESTION = (
    "\n\nQuestion: What is the special magic {city} number? Don't give information outside the document or repeat "
    "your findings. Keep your response short and direct. Answer: "
)
MINFERENCE_CITIES = (
    "Chicago", "Yangon", "Antananarivo", "Colombo", "Almaty", "Sydney", "Chicago", "Mexico City", "Seattle", "Lagos",
    "Amsterdam", "Belgrade", "Cairo", "Baghdad", "Damascus", "Kigali", "Dakar", "Dakar", "Sofia", "Kigali",
    "Victoria", "Tashkent", "Mumbai", "Barcelona", "Almaty", "Amman", "Toronto", "Bratislava", "Johannesburg",
    "Thimphu", "Bangkok", "Santiago", "Cairo", "San Francisco", "Lagos", "Amsterdam", "Paris", "Rabat", "Santiago",
    "Copenhagen", "Madrid", "Kigali", "Ho Chi Minh City", "Sarajevo", "Delhi", "Istanbul", "Ho Chi Minh City",
    "Khartoum", "Helsinki", "Doha", "Istanbul", "Kuala Lumpur", "Budapest", "Shanghai", "Moscow", "Los Angeles",
    "Oslo", "Johannesburg", "Berlin", "Bangalore", "Tokyo", "Melbourne", "Barcelona", "Chicago", "Port Louis",
    "Lisbon", "Nairobi", "Kampala", "Lima", "Maputo", "Vancouver", "Dubai", "Khartoum", "Jakarta", "Madrid",
    "Yerevan", "Beirut", "Athens", "Chicago", "Paris", "Bucharest", "Copenhagen", "Brussels", "Damascus", "Seattle",
    "Los Angeles", "Yerevan", "Victoria", "Tunis", "Astana", "Seoul", "Buenos Aires", "Bangkok", "Colombo",
    "Brussels", "Khartoum", "Doha", "San Francisco", "Vienna", "Jakarta",
)  # fmt: skip
"""Drawn as listed, repeats included."""
