"""Any OpenAI-compatible endpoint as a writer, an expert and a direct grounder.

    settings   what the user says of the endpoint
    pictures   a picture file → a data URI, the same bytes every time
    wire       requests and replies as JSON: what is sent to which server, what counts as an answer
    secret     the key: sent in one header, hidden from all that is shown or kept
    transport  HTTP within limits of time and size (the only module that knows httpx)
    client     tries, several calls at once, what stops a run
    backoff    which wait comes before the next try
    crowd      a bounded number of threads
    cache      answers on disk, by the digest of what was asked
    ledger     tokens and money, with a budget that is never overrun
    writer, expert, grounder, assistant   the roles

A sampler (`writer.ApiWriter`) has the part of `models.base.Writer` that needs no weights:
`prepare` and `sample`. No module here imports torch.
"""
