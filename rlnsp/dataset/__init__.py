"""Video data sets on a disk: manifests, folders, tar shards, ``datasets``; every path kept inside."""
