//! Notices new migrations, which `embed_migrations!` alone does not.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
