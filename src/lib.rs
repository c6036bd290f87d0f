//! Deis.
