"""The training text: reads `corpus/*.txt` and composes conversations from it.

A block of a corpus file starts with `= id` and says what the model answers to
which questions (the marks are explained in README.md). A question is a small
pattern, `(a|b)` for a choice, `[a]` for a part that may be missing, `{list}`
for a word of a list, so that a few lines stand for many wordings. Lines with
`!` are questions that training never sees: `evaluate.py` asks them.
"""

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"
TOPICS = ["rules", "crate", "concepts", "hardware", "models", "about", "smalltalk", "other"]
ASPECTS = ["more", "why", "code"]


@dataclass
class Block:
    """One thing that the model knows."""

    id: str
    topic: str
    answer: str = ""
    aspects: dict[str, str] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)
    goals: list[str] = field(default_factory=list)
    terms: list[str] = field(default_factory=list)
    elliptic: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)


@dataclass
class Case:
    """A question to test with: the messages up to it, and the right reply."""

    kind: str
    id: str
    messages: list[tuple[str, str]]
    answer: str


def lines_of(name):
    """The lines of a corpus file that say something."""
    for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("# "):
            yield line.strip()


def read_blocks():
    """All blocks of all topics, in file order."""
    blocks = []
    for topic in TOPICS:
        for line in lines_of(topic):
            mark, _, rest = line.partition(" ")
            text = rest.replace("\\n", "\n")
            if mark == "=":
                blocks.append(Block(rest, topic))
                continue
            block = blocks[-1]
            if mark == ">":
                block.answer = text
            elif mark.startswith(">") and mark[1:] in ASPECTS:
                block.aspects[mark[1:]] = text
            else:
                {
                    "?": block.questions,
                    "^": block.goals,
                    "~": block.terms,
                    "&": block.elliptic,
                    "!": block.held_out,
                }[mark].append(rest)
    ids = [block.id for block in blocks]
    assert len(set(ids)) == len(ids), "an id is used twice"
    assert all(block.answer for block in blocks), "a block has no answer"
    return blocks


def add_wordings(blocks, name):
    """More questions for the blocks, from a file of `= id` heads and `?` lines."""
    by_id = {block.id: block for block in blocks}
    for line in lines_of(name):
        mark, _, rest = line.partition(" ")
        if mark == "=":
            block = by_id[rest]
        else:
            assert mark == "?", line
            block.questions.append(rest)


def read_sections(name):
    """A file of `@section` heads: each with its lines."""
    sections, current = {}, None
    for line in lines_of(name):
        if line.startswith("@"):
            current = sections.setdefault(line[1:], [])
        else:
            current.append(line)
    return sections


def marked(lines, mark):
    """The lines that begin with a mark, without it."""
    return [line[2:] for line in lines if line.startswith(mark + " ")]


class Pattern:
    """A question pattern, expanded at random."""

    def __init__(self, text, lists):
        self.text, self.lists, self.at = text, lists, 0
        self.tree = self._choice(end="")

    def _choice(self, end):
        options = [[]]
        while self.at < len(self.text):
            char = self.text[self.at]
            self.at += 1
            if char == end:
                break
            if char == "|":
                options.append([])
            elif char == "(":
                options[-1].append(self._choice(")"))
            elif char == "[":
                options[-1].append(self._choice("]") + [[]])
            elif char == "{":
                close = self.text.index("}", self.at)
                options[-1].append(self.text[self.at - 1 : close + 1])
                self.at = close + 1
            elif char == "\\":
                options[-1].append(self.text[self.at])
                self.at += 1
            else:
                options[-1].append(char)
        else:
            assert end == "", f"{self.text!r}: no {end}"
        return options

    def expand(self, rng):
        """One wording."""
        return re.sub(r"\s+", " ", self._say(self.tree, rng)).strip()

    def _say(self, options, rng):
        said = ""
        for part in rng.choice(options):
            if isinstance(part, list):
                said += self._say(part, rng)
            elif part == "{nonsense}":
                said += nonsense(rng)
            elif part.startswith("{") and len(part) > 1:
                said += rng.choice(self.lists[part[1:-1]])
            else:
                said += part
        return said


def nonsense(rng):
    """A word that no text contains, so that unknown words are something known."""
    syllable = lambda: rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") + rng.choice(["", "", *"nrlstm"])
    return "".join(syllable() for _ in range(rng.randint(1, 3)))


class Corpus:
    """Composes questions and conversations; the same seed gives the same text.

    `further` adds the wordings of `further.txt`.
    """

    def __init__(self, further=False):
        self.blocks = read_blocks()
        if further:
            add_wordings(self.blocks, "further")
        self.refusals = 40.0 if further else 14.0
        self.by_id = {block.id: block for block in self.blocks}
        phrases = read_sections("phrases")
        self.lists = {
            name.removeprefix("list "): lines[0].split("|")
            for name, lines in phrases.items()
            if name.startswith("list ")
        }
        self.synonyms = [line.split("|") for line in phrases["synonyms"]]
        self.before = marked(phrases["before"], "?")
        self.after = marked(phrases["after"], "?")
        self.around = {kind: marked(phrases[kind], "?") for kind in ("goal", "term")}
        self.around_held_out = {kind: marked(phrases[kind], "!") for kind in ("goal", "term")}
        followups = read_sections("followups")
        self.followups = {aspect: marked(followups[aspect], "?") for aspect in ASPECTS}
        self.followups_held_out = {aspect: marked(followups[aspect], "!") for aspect in ASPECTS}
        self.nothing_more = marked(followups["nothing-more"], ">")[0]
        self.system = list(lines_of("system"))
        self.parsed = {}
        self.never = {normal(question) for block in self.blocks for question in block.held_out}
        self.weights = [self._weight(block) for block in self.blocks]

    def _weight(self, block):
        """How often a block is asked: what has more wordings needs more of them."""
        if block.id == "other":
            return self.refusals
        lines = len(block.questions) + 3 * len(block.goals) + 2 * len(block.terms)
        return 1.0 + min(lines, 24) / 12.0

    def expand(self, pattern, rng):
        """One wording of a pattern."""
        if pattern not in self.parsed:
            self.parsed[pattern] = Pattern(pattern, self.lists)
        return self.parsed[pattern].expand(rng)

    def question(self, block, rng):
        """A question to which a block is the answer, as somebody might type it."""
        while True:
            kinds = ["question"] * len(block.questions)
            kinds += ["goal"] * 2 * len(block.goals) + ["term"] * 4 * len(block.terms)
            kind = rng.choice(kinds)
            if kind == "question":
                text = self.expand(rng.choice(block.questions), rng)
            else:
                inner = rng.choice(block.goals if kind == "goal" else block.terms)
                text = self.expand(rng.choice(self.around[kind]).replace("%", f"({inner})"), rng)
            if kind != "term" and rng.random() < 0.3:
                text = self._reword(text, rng)
            if normal(text) not in self.never:
                return self._typed(text, rng)

    def _reword(self, text, rng):
        """Puts another word of the same meaning for one word."""
        words = text.split(" ")
        places = [(i, group) for i, word in enumerate(words) for group in self.synonyms if word == group[0]]
        if places:
            i, group = rng.choice(places)
            words[i] = rng.choice(group[1:])
        return " ".join(words)

    def _typed(self, text, rng):
        """Adds what people type around a question, and their slips."""
        if rng.random() < 0.16:
            text = f"{self.expand(rng.choice(self.before), rng)} {text}"
        if rng.random() < 0.08:
            text = f"{text} {self.expand(rng.choice(self.after), rng)}"
        if text[-1] not in "?.!":
            text += rng.choices(["?", "", ".", "!"], [60, 30, 6, 4])[0]
        if rng.random() < 0.12:
            text = slip(text, rng)
        if rng.random() < 0.06:
            words = text.split(" ")
            if len(words) > 4:
                words.pop(rng.randrange(len(words)))
                text = " ".join(words)
        style = rng.random()
        if style < 0.60:
            text = text[0].upper() + text[1:]
        elif style < 0.85:
            text = text.lower()
        elif style < 0.86:
            text = text.upper()
        return text

    def followup(self, aspect, rng):
        """A short question about the reply before it."""
        return self._typed(self.expand(rng.choice(self.followups[aspect]), rng), rng)

    def conversation(self, turns, rng, curious=False, small_talk=1):
        """Messages of one conversation: (role, text).

        The curious ask about what can be asked about, and more often; `small_talk` says how
        many times more there is of that.
        """
        weights = [w * (4 if curious and b.aspects else 1) for w, b in zip(self.weights, self.blocks)]
        weights = [w * (small_talk if b.topic == "smalltalk" else 1) for w, b in zip(weights, self.blocks)]
        messages = []
        if rng.random() < 0.25:
            messages.append(("system", " ".join(rng.sample(self.system, rng.randint(1, 3)))))
        block, told = None, set()
        for _ in range(turns):
            kind = rng.random()
            asks = 0.22 if not curious else 0.55 if block and block.aspects else 0.1
            if block is not None and kind < asks:
                aspect = rng.choice([*ASPECTS, *list(block.aspects) * 3] if curious else ASPECTS)
                question = self.followup(aspect, rng)
                answer = self.nothing_more if aspect in told else block.aspects.get(aspect, self.nothing_more)
                told.add(aspect)
            elif block is None and kind < 0.01:
                question = self.followup(rng.choice(ASPECTS), rng)
                answer = self.by_id["unclear"].answer
            else:
                near = [other for other in self.blocks if block and other.topic == block.topic and other.elliptic]
                if near and kind < asks + 0.14:
                    block = rng.choice(near)
                    question = self._typed(self.expand(rng.choice(block.elliptic), rng), rng)
                else:
                    block = rng.choices(self.blocks, weights)[0]
                    question = self.question(block, rng)
                answer, told = block.answer, set()
            messages += [("user", question), ("assistant", answer)]
        return messages

    def held_out(self, seed):
        """What `evaluate.py` asks: questions in wordings that training never used."""
        rng = random.Random(seed)
        user = lambda text: ("user", text)
        cases = []
        for block in self.blocks:
            case = lambda kind, messages, answer=block.answer: cases.append(Case(kind, block.id, messages, answer))
            for text in block.held_out:
                case("new wording", [user(text)])
                case("with a system message", [("system", rng.choice(self.system)), user(text)])
                case("after two other turns", [*self._turns(2, rng), user(text)])
            for kind, inners in (("goal", block.goals), ("term", block.terms)):
                if inners:
                    around = rng.choice(self.around_held_out[kind])
                    text = self.expand(around.replace("%", f"({rng.choice(inners)})"), rng)
                    case("new words around a known term", [user(text[0].upper() + text[1:] + "?")])
            for aspect, answer in block.aspects.items():
                before = [user(self.question(block, rng)), ("assistant", block.answer)]
                text = rng.choice(self.followups_held_out[aspect])
                case("follow-up question", [*before, user(text)], answer)
        return cases

    def _turns(self, turns, rng):
        """Some turns about anything, without follow-up questions."""
        messages = []
        for block in rng.sample(self.blocks, turns):
            messages += [("user", self.question(block, rng)), ("assistant", block.answer)]
        return messages


def normal(text):
    """A text without case and punctuation, to compare wordings."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def slip(text, rng):
    """One slip of the fingers: a letter lost, doubled, swapped or wrong."""
    at = rng.randrange(max(1, len(text) - 1))
    if not text[at].isalpha():
        return text
    kind = rng.randrange(4)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at] + text[at:]
    if kind == 2 and at + 2 <= len(text):
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + rng.choice("abcdefghijklmnopqrstuvwxyz") + text[at + 1 :]


def random_source(*parts):
    """A random source for one purpose, the same on every machine."""
    return random.Random("/".join(map(str, parts)))
