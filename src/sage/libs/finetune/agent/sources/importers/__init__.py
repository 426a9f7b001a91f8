"""One module for each foreign form of a conversation; `base` says what an importer is, `known` lists them."""
