//! Builds the client of quota.v1 from the protos, without a protoc on the machine.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

const PROTOS: &str = "../../protos";
const FILES: [&str; 3] =
    ["quota/v1/quota_service.proto", "quota/v1/admin_service.proto", "quota/v1/test_clock_service.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTOS}");
    let descriptors = protox::compile(FILES, [PROTOS])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // The transcripts' player reads and writes any message by these.
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors)?;
    Ok(())
}
