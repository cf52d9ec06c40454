"""Words that people read to each other: short, told apart by ear, and none that is a form of another.

256 of them, so a word is a byte.
"""

from __future__ import annotations

WORDS = (
    "acorn", "actor", "agenda", "album", "almond", "amber", "anchor", "anvil", "apple", "april", "arctic", "arrow",
    "artist", "atlas", "autumn", "avenue", "bacon", "badge", "bakery", "balcony", "bamboo", "banjo", "barrel",
    "basket", "bicycle", "biscuit", "blanket", "border", "bottle", "bridge", "bronze", "bucket", "butter", "button",
    "cabin", "cactus", "camera", "canal", "candle", "canoe", "canvas", "carbon", "carpet", "castle", "cedar",
    "cellar", "cherry", "chimney", "cinema", "circus", "citrus", "clover", "cobalt", "coffee", "comet", "compass",
    "copper", "coral", "cotton", "cousin", "cradle", "crystal", "cushion", "daisy", "dancer", "decade", "delta",
    "dentist", "desert", "diamond", "diesel", "dinner", "doctor", "dolphin", "dragon", "drawer", "eagle", "echo",
    "eleven", "empire", "engine", "estate", "evening", "fabric", "falcon", "farmer", "feather", "fennel", "ferry",
    "fiction", "flamingo", "flute", "forest", "fossil", "galaxy", "gallery", "garden", "garlic", "ginger",
    "giraffe", "glacier", "goblet", "gospel", "granite", "gravel", "guitar", "hammer", "harbour", "harvest",
    "hazel", "helmet", "hermit", "honey", "horizon", "hotel", "hunter", "iceberg", "igloo", "indigo", "insect",
    "island", "ivory", "jacket", "jaguar", "jasmine", "jelly", "jigsaw", "jungle", "kayak", "kettle", "keyboard",
    "kitchen", "kitten", "koala", "ladder", "lagoon", "lantern", "laundry", "lemon", "leopard", "letter", "library",
    "lilac", "lobster", "lotus", "magnet", "maple", "marble", "market", "meadow", "melon", "mercury", "meteor",
    "midnight", "mirror", "monkey", "mosaic", "mountain", "muffin", "museum", "napkin", "nectar", "needle",
    "nickel", "noodle", "oasis", "ocean", "olive", "onion", "opera", "orange", "orchid", "otter", "oxygen",
    "oyster", "palace", "panther", "paper", "parade", "parrot", "peanut", "pebble", "pelican", "pencil", "pepper",
    "piano", "picnic", "pigeon", "pillow", "pirate", "planet", "poem", "pony", "poppy", "potato", "prairie",
    "puzzle", "pyramid", "quartz", "rabbit", "radar", "radio", "raven", "recipe", "ribbon", "river", "robin",
    "rocket", "saddle", "saffron", "salmon", "sandal", "satin", "saturn", "scarlet", "season", "shadow", "shelter",
    "silver", "siren", "sketch", "spider", "spinach", "sugar", "summer", "sunset", "swallow", "tablet", "tango",
    "temple", "tennis", "ticket", "tiger", "timber", "tomato", "topaz", "tractor", "trumpet", "tulip", "tunnel",
    "turtle", "umbrella", "velvet", "violet", "violin", "vulture", "waffle", "walnut", "walrus", "window", "winter",
    "wizard", "yellow", "yogurt", "zebra", "zigzag",
)
