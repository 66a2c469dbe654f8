//! Every change to an archive is found.
