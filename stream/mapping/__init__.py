"""How the clicks of a topic or a log are read if their fields have other names, are nested or need a choice."""
