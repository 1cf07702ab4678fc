//! Nothing: this package only chooses what is built together.
