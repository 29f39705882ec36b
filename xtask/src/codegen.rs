//! `cargo xtask codegen`: `.proto` files and `methods.toml` in, `machine-api/generated/` out, without `protoc`.
//!
//! The heavy half stands behind the feature `codegen`, so that the everyday tasks build in seconds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_reflect::{DescriptorPool, Value};
use serde::Deserialize;

use crate::{Outcome, files};

/// The classes of one service's methods, as `methods.toml` lists them.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Classes {
    stop: Vec<String>,
    motion: Vec<String>,
    read: Vec<String>,
    other: Vec<String>,
    heavy: Vec<String>,
}

/// Writes the generated code; with `check` compares it with what is checked in and fails where they differ.
pub fn run(root: &Path, check: bool) -> Outcome {
    let api = root.join("machine-api");
    let fresh = tempfile::tempdir()?;
    generate(&api, fresh.path())?;
    let target = api.join("generated");
    let new = files::contents(fresh.path())?;
    let old = files::contents(&target)?;
    if check {
        let differing: Vec<_> = new.keys().chain(old.keys()).filter(|k| new.get(*k) != old.get(*k)).collect();
        if differing.is_empty() {
            println!("codegen: {} generated files agree with their sources", new.len());
            return Ok(());
        }
        return Err(format!("generated code is stale, run `cargo xtask codegen`: {differing:?}").into());
    }
    fs::create_dir_all(&target)?;
    for name in old.keys().filter(|k| !new.contains_key(*k)) {
        fs::remove_file(target.join(name))?;
    }
    for (name, bytes) in &new {
        fs::write(target.join(name), bytes)?;
    }
    println!("codegen: wrote {} files to {}", new.len(), target.display());
    Ok(())
}

fn generate(api: &Path, out: &Path) -> Outcome {
    let proto = api.join("proto");
    let mut sources: Vec<PathBuf> = files::walk(&proto)?;
    sources.retain(|p| p.extension().is_some_and(|e| e == "proto"));
    sources.sort();
    let mut compiler = protox::Compiler::new([&proto])?;
    compiler.include_imports(true).include_source_info(true).open_files(&sources)?;
    tonic_prost_build::configure()
        .out_dir(out)
        .include_file("packages.rs")
        .emit_rerun_if_changed(false)
        // A machine answers UNIMPLEMENTED to what it does not have.
        .generate_default_stubs(true)
        .compile_fds(compiler.file_descriptor_set())?;
    // The encoded set keeps the method option; a decoded one of prost-types loses it.
    compiler.include_source_info(false);
    let descriptors = compiler.encode_file_descriptor_set();
    let pool = DescriptorPool::decode(descriptors.as_slice())?;
    fs::write(out.join("methods.rs"), methods(&pool, &fs::read_to_string(api.join("methods.toml"))?)?)?;
    fs::write(
        out.join("descriptors.bin"),
        prost_types::FileDescriptorSet::decode(descriptors.as_slice()).map(|_| descriptors)?,
    )?;
    Ok(())
}

/// The method table as Rust source, sorted by path so that it can be searched by bisection.
fn methods(pool: &DescriptorPool, toml: &str) -> Result<String, Box<dyn std::error::Error>> {
    let mut classes: BTreeMap<String, Classes> = toml::from_str(toml)?;
    let option = pool
        .get_extension_by_name("viam.common.v1.safety_heartbeat_monitored")
        .ok_or("the option safety_heartbeat_monitored is not declared")?;
    let mut rows = BTreeMap::new();
    for service in pool.services() {
        let name = service.full_name();
        let listed = classes.remove(name).ok_or(format!("methods.toml does not class {name}"))?;
        let mut count = 0;
        for method in service.methods() {
            let monitored = matches!(*method.options().get_extension(&option), Value::Bool(true));
            let class = class_of(&listed, method.name(), name)?;
            if monitored != (class == "Motion") {
                return Err(format!(
                    "{name}/{}: class {class} disagrees with the option (monitored: {monitored})",
                    method.name()
                )
                .into());
            }
            let heavy = listed.heavy.iter().any(|h| h == method.name());
            rows.insert(
                format!("/{name}/{}", method.name()),
                format!(
                    "class: Class::{class}, monitored: {monitored}, heavy: {heavy}, request_stream: {}, response_stream: {}",
                    method.is_client_streaming(),
                    method.is_server_streaming()
                ),
            );
            count += 1;
        }
        let lines = listed.stop.len() + listed.motion.len() + listed.read.len() + listed.other.len();
        if lines != count {
            return Err(format!("methods.toml lists {lines} methods of {name}, it has {count}").into());
        }
    }
    if let Some(unknown) = classes.keys().next() {
        return Err(format!("methods.toml classes {unknown}, which no .proto declares").into());
    }
    let mut text = String::from("// Generated by `cargo xtask codegen` from methods.toml and the .proto files.\n\n");
    writeln!(text, "pub(super) static METHODS: [Method; {}] = [", rows.len())?;
    for (path, rest) in rows {
        writeln!(text, "    Method {{ path: {path:?}, {rest} }},")?;
    }
    text.push_str("];\n");
    Ok(text)
}

fn class_of(listed: &Classes, method: &str, service: &str) -> Result<&'static str, String> {
    let lists = [("Stop", &listed.stop), ("Motion", &listed.motion), ("Read", &listed.read), ("Other", &listed.other)];
    let mut found = lists.iter().filter(|(_, names)| names.iter().any(|n| n == method)).map(|(class, _)| *class);
    match (found.next(), found.next()) {
        (Some(class), None) => Ok(class),
        (None, _) => Err(format!("methods.toml does not class {service}/{method}")),
        (Some(_), Some(_)) => Err(format!("methods.toml classes {service}/{method} twice")),
    }
}
