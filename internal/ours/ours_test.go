package ours

