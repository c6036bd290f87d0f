
/// Whether this mutant is on: one of tests/mutants, by `MUTANT=`.
pub fn mutant(name: &str) -> bool {
    static ON: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ON.get_or_init(|| std::env::var("MUTANT").unwrap_or_default()) == name
}
