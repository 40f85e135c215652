"""Labelled sentences from a language model, near a few hundred labelled posts (ReFineG, training).

    prompts   what is asked, and what counts as an answer: sentences with marked names
    style     how the seed posts are annotated: what is marked there, and what is not
    screen    which sentences may stay: sound, new, diverse, in the seeds' own style
    origins   near which post sentences were written, where nobody wrote it down

The wording of ReFineG's prompts and its rules against "domain knowledge conflict" are not on its
page. From its released run it is known that every post was sent to an LLM, which returned ten
sentences with the post's entities and ten with new ones of the same types. The rest is ours.
Pure steps: no files, no models, no network.
"""
