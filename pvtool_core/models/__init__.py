"""The weights that users bring: a registry of what there is, and how it comes here, is checked, and goes.

store       what is on this machine        registry    what is known: sources, hashes, licences
fetching    from the hub or an address     adding      from a file or folder of the user's
downloads   one file                       hub         a repository's list of files
digests     hashes of large files
integrity   whole and what they are called pickles     whether they hold nothing but tensors

Nothing here imports torch but `pickles`, which is a process of its own.
"""
