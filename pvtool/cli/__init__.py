"""The commands of pv, one file a noun; main.py names them and loads only the one that is called."""
