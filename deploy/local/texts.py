"""Review texts from a small grammar: words depend on the rating, and vary from text to text.

A rule is a symbol with its alternatives; `{symbol}` in an alternative is expanded in turn. Each
sentence takes its words from the review's rating or, now and then, from a neighbouring one, as
customers do: a model can learn the ratings from the words, but not to perfection.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import cache

Rules = Mapping[str, tuple[str, ...]]

_SYMBOL = re.compile(r"\{(\w+)\}")
_A_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeio]|un|ut)")

_COMMON: Rules = {
    "person": ("my wife", "my husband", "my son", "my daughter", "my mother", "a friend"),
    "month": ("January", "March", "May", "July", "September", "November", "December"),
    "some": ("two", "three", "four", "five", "six", "ten"),
    "period": ("days", "weeks", "months", "years"),
    "filler": (
        "I bought this in {month} for {person}.",
        "I have had the {product} for {some} {period} now.",
        "This is my {ordinal} {product} from this seller.",
        "{person} asked me to get this one.",
        "I read {some} other reviews before I ordered.",
        "I mostly needed it {purpose}.",
        "We use it {purpose}, about {some} times a week.",
        "Ordered in {month}, and it arrived the same day.",
        "For what it is worth, I paid full price.",
        "I usually do not write reviews.",
    ),
    "ordinal": ("first", "second", "third"),
    "opinion": (
        "The {aspect} is {degree} {adjective}.",
        "I found the {aspect} {degree} {adjective}.",
        "{degree} {adjective} {aspect}.",
        "The {aspect} and the {aspect} are {degree} {adjective}.",
        "When I use it {purpose}, the {aspect} is {adjective}.",
        "Compared with others, this {product} is {degree} {adjective}.",
        "{person} says the {aspect} is {adjective}, and I agree.",
        "What a {adjective} {product}.",
    ),
}

_BY_RATING: Mapping[int, Rules] = {
    1: {
        "adjective": (
            "terrible", "useless", "awful", "worthless", "horrible", "dreadful", "broken",
            "unusable", "hopeless", "poor",
        ),
        "degree": ("absolutely", "completely", "utterly", "just", "truly"),
        "verdict": (
            "Do not waste your money.",
            "I want a refund.",
            "The worst {product} I have ever bought.",
            "Stay away from this one.",
            "I threw it out after {some} {period}.",
            "Zero stars if I could.",
            "Support never answered {some} of my messages.",
            "It never worked, not once.",
        ),
        "headline": ("Terrible", "Waste of money", "Do not buy", "Useless", "One star is too many"),
        "brief": ("awful", "junk", "Refund please", "no", "Does not work!!"),
    },
    2: {
        "adjective": (
            "disappointing", "poor", "weak", "frustrating", "clumsy", "unreliable", "slow",
            "confusing", "overpriced", "mediocre",
        ),
        "degree": ("rather", "quite", "very", "just", "unfortunately"),
        "verdict": (
            "I expected more.",
            "Not worth the price.",
            "I would not buy it again.",
            "The older version was better.",
            "It works sometimes, and then it does not.",
            "I regret this purchase a little.",
            "It needs a lot of work still.",
            "Two stars because {person} can use part of it.",
        ),
        "headline": ("Disappointed", "Expected more", "Not worth it", "Poor", "Could be better"),
        "brief": ("meh", "poor", "Not what I expected", "disappointing", "Not great"),
    },
    3: {
        "adjective": (
            "okay", "average", "fair", "acceptable", "passable", "decent", "mediocre", "so-so",
            "ordinary", "fine",
        ),
        "degree": ("more or less", "somewhat", "about", "rather", "mostly"),
        "verdict": (
            "It does the job, no more.",
            "Neither good nor bad.",
            "Some things work and some do not.",
            "I might look for another one.",
            "It is alright for the price.",
            "There are pros and cons.",
            "Nothing special.",
            "Could be better, could be worse.",
        ),
        "headline": ("It is okay", "Average", "Does the job", "Mixed feelings", "Three stars"),
        "brief": ("ok", "okay", "It is alright", "so so", "fine"),
    },
    4: {
        "adjective": (
            "good", "solid", "nice", "useful", "pleasant", "reliable", "decent", "handy", "great",
            "easy",
        ),
        "degree": ("quite", "pretty", "really", "very", "mostly"),
        "verdict": (
            "A few small flaws, but I like it.",
            "I would buy it again.",
            "Good value for the money.",
            "Just one star off for the price.",
            "Almost perfect.",
            "It works well most of the time.",
            "{person} is happy with it.",
            "I recommend it, with small reservations.",
        ),
        "headline": ("Good", "Works well", "Pretty good", "Nice, with small flaws", "Good value"),
        "brief": ("good", "nice", "Works well", "Pretty good", "I like it"),
    },
    5: {
        "adjective": (
            "excellent", "perfect", "wonderful", "fantastic", "outstanding", "superb", "brilliant",
            "amazing", "great", "flawless",
        ),
        "degree": ("absolutely", "really", "simply", "truly", "just"),
        "verdict": (
            "I love it!",
            "Highly recommended.",
            "Worth every penny.",
            "The best {product} I have ever had.",
            "I could not be happier.",
            "{person} loves it too.",
            "Works perfectly, every time.",
            "I will definitely buy it again.",
        ),
        "headline": ("Love it", "Excellent", "Perfect", "Five stars", "Highly recommended"),
        "brief": ("great", "Love it!", "Perfect", "Excellent!!", "awesome"),
    },
}  # fmt: skip

_BY_CATEGORY: Mapping[str, Rules] = {
    "Digital_Software": {
        "product": ("program", "software", "suite", "application", "tool"),
        "aspect": (
            "installation", "interface", "activation key", "backup", "update", "import",
            "spreadsheet", "virus scan", "tax form", "license", "help file",
        ),
        "purpose": ("for my taxes", "to edit photos", "at the office", "for bookkeeping"),
        "event1": ("It crashed {some} times in one day.", "The key was rejected at once."),
        "event3": ("The download took a while.", "I had to restart the computer once."),
        "event5": ("It was installed in {some} minutes.", "It found a virus the other one missed."),
    },
    "Digital_Video_Games": {
        "product": ("game", "download", "expansion", "title", "sequel"),
        "aspect": (
            "story", "art style", "soundtrack", "multiplayer", "campaign", "control scheme",
            "level design", "server", "difficulty", "save system", "frame rate",
        ),
        "purpose": ("with the kids", "on weekends", "online with friends", "after work"),
        "event1": ("It will not even start.", "The servers were down for {some} {period}."),
        "event3": ("I finished it in {some} evenings.", "The patch is large."),
        "event5": ("I played all night.", "I have put {some} hundred hours into it."),
    },
    "Gift_Card": {
        "product": ("card", "gift card", "gift", "voucher", "present"),
        "aspect": (
            "design", "delivery", "envelope", "code", "balance", "message", "printout",
            "redemption", "e-mail", "gift box", "amount",
        ),
        "purpose": ("for birthdays", "as a thank-you", "for the holidays", "for a graduation"),
        "event1": ("The code had been used already.", "The card arrived with no balance."),
        "event3": ("It came by e-mail instead of on paper.", "I chose the plain design."),
        "event5": ("It arrived within {some} minutes.", "The face of {person} said it all."),
    },
    "Mobile_Apps": {
        "product": ("app", "application", "widget", "puzzle", "organizer"),
        "aspect": (
            "layout", "notification", "sync", "battery use", "login", "advertising", "tutorial",
            "calendar", "keyboard", "permission list", "free version",
        ),
        "purpose": ("on my tablet", "on the train", "to plan the week", "on my phone"),
        "event1": ("It closes as soon as I open it.", "An advertisement every {some} seconds."),
        "event3": ("The last update moved the buttons.", "I have the free version."),
        "event5": ("I open it every morning.", "No advertisements at all."),
    },
    "Digital_Music_Purchase": {
        "product": ("album", "song", "recording", "record", "single"),
        "aspect": (
            "melody", "voice", "mix", "rhythm", "guitar", "chorus", "sound quality", "cover art",
            "live version", "remaster", "bass line",
        ),
        "purpose": ("in the car", "while I cook", "at the gym", "before I sleep"),
        "event1": ("{some} tracks are cut off in the middle.", "It is not the original recording."),
        "event3": ("I knew about half of the tracks.", "It has {some} tracks."),
        "event5": ("I have played it on repeat for {some} {period}.", "It gave me goosebumps."),
    },
    "Digital_Ebook_Purchase": {
        "product": ("book", "novel", "story", "read", "volume"),
        "aspect": (
            "plot", "ending", "hero", "dialogue", "translation", "formatting", "pace", "villain",
            "writing", "research", "first chapter",
        ),
        "purpose": ("on holiday", "for my book club", "in the evening", "for a class"),
        "event1": ("I gave up after {some} pages.", "Whole chapters are missing."),
        "event3": ("I read it in {some} evenings.", "It is part of a series."),
        "event5": ("I could not put it down.", "I stayed up until it was light to finish it."),
    },
}  # fmt: skip

CATEGORIES = tuple(_BY_CATEGORY)
"""Categories that have words of their own; the names are those of the Amazon data set."""

_FURIOUS: Rules = {
    "furious": (
        "Absolutely the worst {product} I have ever seen, {adjective} from start to finish.",
        "This is a scam: the {aspect} is {adjective}, the {aspect} is {adjective}, all of it.",
        "I am furious, I want my money back right now, and I will never buy here again!!!",
        "Since the last change the {aspect} is {degree} {adjective} and nobody answers.",
        "Everyone I know has the same trouble: {adjective} {aspect}, {adjective} {aspect}.",
        "Avoid at any cost, it is a {degree} {adjective} {product}.",
        "It deleted everything, it charged me {some} times, and it is {adjective}.",
        "How can anyone sell such a {adjective} {product}? Shame on you!",
    ),
}

# By mood: bad, so-so, good.
_EXOTIC = (
    (
        "\U0001f621\U0001f4a9 never again",
        "\u6700\u60aa\u3067\u3059\u3002\u8fd4\u91d1\u3057\u3066\u304f\u3060\u3055\u3044\u3002",
        "\u0633\u064a\u0626 \u062c\u062f\u0627",
        "tre\u0300s de\u0301cevant",
    ),
    (
        "\U0001f610 \U0001f937\u200d\u2640\ufe0f",
        "\u8fd8\u53ef\u4ee5\uff0c\u4e00\u822c\u822c\u3002",
        "\u05d1\u05e1\u05d3\u05e8, \u05dc\u05d0 \u05d9\u05d5\u05ea\u05e8",
        "c\u0327a va, sans plus",
    ),
    (
        "\U0001f60d\U0001f44d\U0001f3fd love it \u2764\ufe0f",
        "\u3068\u3066\u3082\u826f\u3044\u3067\u3059\u3002",
        "\u0645\u0645\u062a\u0627\u0632",
        "tre\u0300s bien, fu\u0308r immer",
    ),
)

_HTML = (" <br /><br />", " &amp; ", "<br />", " &#34;sic&#34; ", " <b>*</b> ")
_BREAKS = ("\n", "\n\n", "\r\n", "\t")

_ODD_SHARE = 0.08
_STRAY_SHARE = 0.3
_MIN_LONG_CHARACTERS, _MAX_LONG_CHARACTERS = 2_000, 8_000


def review_text(category: str, rating: int, rng: random.Random) -> str:
    """Return the body of a review.

    Mostly one to six sentences; some are a single word, some have several thousand characters,
    some hold HTML, line breaks, emoji or other scripts. At most 8,500 characters.

    Parameters
    ----------
    category
        One of `CATEGORIES`.
    rating
        1 to 5; decides which words are likely.
    rng
        Source of all choices.

    Examples
    --------
    >>> review_text("Gift_Card", 5, random.Random(4))
    'When I use it for birthdays, the code is great.'
    """
    if rng.random() >= _ODD_SHARE:
        return " ".join(_sentences(category, rating, rng))
    return _odd_text(category, rating, rng)


def furious_text(category: str, rng: random.Random) -> str:
    """Return the body of an outraged one-star review, seven to twelve sentences long."""
    rules = _rules(category, 1)
    return " ".join(
        _sentence(rng.choice(("{furious}", "{furious}", "{verdict}")), rules, rng)
        for _ in range(rng.randint(7, 12))
    )


def headline(category: str, rating: int, rng: random.Random) -> str:
    """Return the headline of a review; arguments as for `review_text`."""
    return _sentence("{headline}", _rules(category, rating), rng)


def product_title(category: str, rng: random.Random) -> str:
    """Return the title of a product of this category."""
    rules = _rules(category, 3)
    return f"{rng.choice(rules['aspect'])} {rng.choice(rules['product'])}".title()


def _odd_text(category: str, rating: int, rng: random.Random) -> str:
    kind = rng.choice(("brief", "long", "exotic", "html", "breaks"))
    if kind == "brief":
        return rng.choice(_rules(category, rating)["brief"])
    sentences = _sentences(category, rating, rng)
    if kind == "long":
        length = rng.randint(_MIN_LONG_CHARACTERS, _MAX_LONG_CHARACTERS)
        while sum(map(len, sentences)) < length:
            sentences += _sentences(category, rating, rng)
        return " ".join(sentences)
    if kind == "exotic":
        mood = 0 if rating < 3 else 1 if rating == 3 else 2
        sentences.insert(rng.randrange(len(sentences) + 1), rng.choice(_EXOTIC[mood]))
        return " ".join(sentences)
    between = rng.choice(_HTML if kind == "html" else _BREAKS)
    return between.join(sentences) + (between if kind == "html" else "")


def _sentences(category: str, rating: int, rng: random.Random) -> list[str]:
    shapes = ["{opinion}"] * rng.choice((1, 1, 2, 2, 3))
    if rng.random() < 0.5:
        shapes.append("{verdict}")
    if rng.random() < 0.25:
        shapes.insert(0, "{event}")
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        shapes.insert(0, "{filler}")
    return [_sentence(shape, _rules(category, _mood(rating, rng)), rng) for shape in shapes]


def _mood(rating: int, rng: random.Random) -> int:
    if rng.random() >= _STRAY_SHARE:
        return rating
    return min(5, max(1, rating + rng.choice((-1, 1))))


@cache
def _rules(category: str, rating: int) -> Rules:
    of_category = _BY_CATEGORY[category]
    # Even ratings share the events of both their neighbours.
    events = [of_category[name] for name in ("event1", "event3", "event5")]
    near = events[(rating - 1) // 2 : rating // 2 + 1]
    event = {"event": tuple(text for texts in near for text in texts)}
    return {**_COMMON, **_FURIOUS, **of_category, **_BY_RATING[rating], **event}


def _sentence(shape: str, rules: Rules, rng: random.Random) -> str:
    text = _A_BEFORE_VOWEL.sub(r"\1n ", _expand(shape, rules, rng))
    return text[0].upper() + text[1:]


def _expand(text: str, rules: Rules, rng: random.Random) -> str:
    return _SYMBOL.sub(lambda symbol: _expand(rng.choice(rules[symbol[1]]), rules, rng), text)
