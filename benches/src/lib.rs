//! Load shapes, floors and peers; one command writes one results file.
