package main

// privateFiles has nothing to do: files inherit who may read them from their folder.
func privateFiles() {}
