//! Nothing to compile: this manifest only pins a package (see `README.md`).
