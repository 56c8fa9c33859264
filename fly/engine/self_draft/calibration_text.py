"""Default text on which a draft is compared with its target.  A little of each of prose,
arithmetic, instructions, code and lists, written for this purpose."""

TEXT = """\
The river came down from the hills in the spring and went through the town before anyone had opened
the shutters. By noon the baker had moved his flour to the upper floor, and by evening the square
was a lake with a church in the middle of it. Nobody was hurt. The children remembered it as the
best week of the year, because the school was closed and there were boats in the street.

Question: A farmer has 24 hens. Each hen lays 5 eggs a week, and a carton holds 12 eggs. How many
cartons does the farmer fill in a week?
Answer: 24 hens lay 24 * 5 = 120 eggs a week. A carton holds 12 eggs, so the farmer fills
120 / 12 = 10 cartons. The answer is 10.

Question: Anna is 3 years older than Ben, and together they are 21. How old is Ben?
Answer: Let b be Ben's age. Then b + (b + 3) = 21, so 2 * b = 18 and b = 9. The answer is 9.

To make the dough, mix 500 g of flour with 10 g of salt and 7 g of yeast. Add 320 ml of warm water
and knead for ten minutes, until the dough is smooth. Cover it, let it rest for an hour, fold it
twice, and let it rest again. Bake it for 35 minutes at 230 degrees.

def count_words(text: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in text.lower().split():
        counts[word] = counts.get(word, 0) + 1
    return counts


class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("the stack is empty")
        return self.items.pop()

User: What is the difference between weather and climate?
Assistant: Weather is what happens outside today: rain, wind, or sunshine. Climate is what the
weather is like in a place over many years. One cold day says nothing about the climate, just as one
throw says little about a die.

Things to take along:
1. a map and a compass
2. water for two days
3. a warm coat, since the nights are cold
4. matches, kept dry

{"name": "north station", "height_m": 412, "readings": [3.1, 2.8, 2.9, 3.4], "is_open": true}
"""
