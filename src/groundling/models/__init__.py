"""Backends, one a file. Flows know them only through `groundling.models.base`."""

import logging

# PEFT imports bitsandbytes wherever it is installed, and on some CPUs that tells on stderr of a
# kernel that it can do without
logging.getLogger("bitsandbytes").addHandler(logging.NullHandler())
