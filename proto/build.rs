//! Compiles the `.proto` files with protox (no protoc) and writes the descriptor set that gRPC
//! reflection serves.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 9] = [
    "sharklock/v1/lock.proto",
    "sharklock/v1/admin.proto",
    "sharklock/internal/v1/range.proto",
    "sharklock/internal/v1/store.proto",
    "sharklock/internal/v1/records.proto",
    "sharklock/internal/v1/raft.proto",
    "sharklock/internal/v1/peer.proto",
    "sharklock/internal/v1/master.proto",
    "sharklock/internal/v1/master_records.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    // Reflection shows the public API only; the internal services have their own ports.
    let public = protox::compile(&FILES[..2], ["proto"])?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("sharklock_descriptor.bin"), public.encode_to_vec())?;

    let all = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        // A header comes once per transfer, chunks by the thousand: nobody keeps many of either.
        .enum_attribute("SnapshotMessage.body", "#[allow(clippy::large_enum_variant)]")
        .client_mod_attribute(".", "#[cfg(feature = \"edge\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"edge\")]")
        .compile_fds(all)?;
    Ok(())
}
