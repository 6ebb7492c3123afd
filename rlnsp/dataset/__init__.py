"""Video data sets as they lie on a disk: manifests, folders, tar shards, ``datasets``; every path kept inside."""
