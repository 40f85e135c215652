"""The embedded world: pictures and posts whose every answer is known exactly.

`identities` says who exists, `scene` composes them, `render` draws, `language` speaks about a
scene and understands what is said, `posts` writes a data set in the Twitter-GMNER layout.
"""
