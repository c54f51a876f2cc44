"""The commands of pv, one file for each noun; main.py imports only the called one."""
