"""The face of pv: the command line. It starts engines, follows their files and never loads a model itself."""
