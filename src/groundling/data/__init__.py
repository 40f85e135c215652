"""Data files in and out, one format a module.

    conll              token<TAB>tag texts and their BIO spans
    columns            the same without ids, as most taggers read and write it
    voc                box annotations in VOC-like XML
    gmner              the Twitter-GMNER layout: txt/SPLIT.txt with xml/ID.xml
    ccks               the posts of the CCKS task's JSON files
    jsonl              posts and predictions, one JSON object a line
    expressions_jsonl  expressions, one JSON object a line
    tagger_output      predictions of taggers, in columns
    riveg              predictions of RiVEG
    ccks_predictions   predictions as the CCKS task has them
    systems            predictions by the name of their format
    formats            a data set by the name of its format
    schemes            entity types by name or from a file
    check              every quirk of a data set, with file and line
    stats              the counts of a data set
    leaks              texts that come twice, and splits without any
    convert            from one layout to another

Beside them `mentions` finds the tokens that a name stands for.

Readers keep what they find: coordinates, letter case and odd characters stay as they stand.
"""
