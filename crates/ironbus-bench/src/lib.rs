//! Figures of ironbus beside its peers. Unpublished; the measurements come with the benchmark itself.
