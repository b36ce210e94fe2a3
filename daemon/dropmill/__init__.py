"""dropmill: drop files into folders; text becomes searchable, images get a grayscale copy.

Data goes one way, and a reader can follow one file through the modules in this order:

    watch ──► settle ──► store (admit) ──► pool ──► worker ──► processors ──► store (complete)
                                                                                   ▲
                                                                        search ────┘
"""

__version__ = "0.1.0"
