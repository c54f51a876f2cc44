"""Models of users: the registry, downloads, additions, checks and removal.

    installed     models on this machine          registry     sources, hashes, licences
    fetching      from the hub or an address      adding       from files of the user
    downloads     one file                        hub          list of files in a repository
    digests       hashes of large files           locate       paths of weights in settings
    integrity     checks of files                 pickles      check of their content


Only `pickles`, which runs as a separate process, imports torch.
"""
