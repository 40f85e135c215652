"""Data files in and out, one format a module.

    conll              token<TAB>tag texts and their BIO spans
    voc                box annotations in VOC-like XML
    gmner              the Twitter-GMNER layout: txt/SPLIT.txt with xml/ID.xml
    jsonl              posts and predictions, one JSON object a line
    expressions_jsonl  expressions, one JSON object a line
    formats            a data set by the name of its format
    check              every quirk of a data set, with file and line
    stats              the counts of a data set
    convert            from one layout to another

Readers keep what they find: coordinates, letter case and odd characters stay as they stand.
"""
