//! Collects the descriptions of types and fields from the source of `k8s-openapi`, which holds
//! them as schema literals, into one compressed file. So the repository holds no sentences of the
//! API's documentation, and `kubectl explain` speaks all the same.
//!
//! Without that source the build goes on with empty descriptions and a warning.

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=Cargo.toml");
    let mut text = String::new();
    match source_folder() {
        Ok(folder) => collect(&folder, &mut text)?,
        Err(e) => println!("cargo::warning=no descriptions of API fields: {e}"),
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptions.z");
    let mut z =
        flate2::write::ZlibEncoder::new(fs::File::create(out)?, flate2::Compression::best());
    z.write_all(text.as_bytes())?;
    z.finish()?;
    Ok(())
}

/// `src/v1_36` of the locked k8s-openapi: in cargo's registry, else (vendored) where
/// `cargo metadata` says.
fn source_folder() -> Result<PathBuf, Box<dyn Error>> {
    let manifest = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    let registry = in_registry(&manifest);
    let folder = match registry {
        Some(folder) => folder,
        None => by_metadata(&manifest)?,
    };
    let folder = folder.join("src/v1_36");
    if folder.is_dir() {
        Ok(folder)
    } else {
        Err("k8s-openapi has no v1_36".into())
    }
}

fn in_registry(manifest: &Path) -> Option<PathBuf> {
    let lock = manifest.parent()?.join("../../Cargo.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    let lock = fs::read_to_string(lock).ok()?;
    let (_, after) = lock.split_once("name = \"k8s-openapi\"\nversion = \"")?;
    let version = after.split('"').next()?;
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))?;
    let indices = fs::read_dir(home.join("registry/src")).ok()?;
    indices
        .flatten()
        .map(|index| index.path().join(format!("k8s-openapi-{version}")))
        .find(|folder| folder.is_dir())
}

fn by_metadata(manifest: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let out = Command::new(std::env::var("CARGO")?)
        .args([
            "metadata",
            "--format-version=1",
            "--offline",
            "--filter-platform",
        ])
        .arg(std::env::var("TARGET")?)
        .arg("--manifest-path")
        .arg(manifest)
        .output()?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("no packages")?;
    let found = packages.iter().find(|p| p["name"] == "k8s-openapi");
    let manifest = found.and_then(|p| p["manifest_path"].as_str());
    let manifest = manifest.ok_or("k8s-openapi is not in the workspace")?;
    Ok(Path::new(manifest)
        .parent()
        .ok_or("a manifest without a folder")?
        .to_owned())
}

fn collect(folder: &Path, out: &mut String) -> Result<(), Box<dyn Error>> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|e| e.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, out)?;
        } else {
            descriptions(&fs::read_to_string(&path)?, out);
        }
    }
    Ok(())
}

/// One line `definition \t field \t text` each; the field is empty for the type itself. The depth
/// of a literal in the generated source shows what it describes.
fn descriptions(source: &str, out: &mut String) {
    const FROM: &str = "// Generated from definition ";
    let Some(name) = source.lines().next().and_then(|l| l.strip_prefix(FROM)) else {
        return;
    };
    let Some((_, schema)) = source.split_once("fn json_schema(") else {
        return;
    };
    let mut field = "";
    for line in schema.lines() {
        let depth = line.len() - line.trim_start().len();
        let line = line.trim_start();
        if depth == 16 && line.starts_with('"') {
            field = line.split('"').nth(1).unwrap_or("");
        }
        let literal = line
            .strip_prefix("\"description\": \"")
            .and_then(|l| l.strip_suffix("\","))
            .filter(|_| depth == 12 || depth == 20)
            .or_else(|| {
                let insert = "schema_obj.ensure_object().insert(\"description\".into(), \"";
                line.strip_prefix(insert)?.strip_suffix("\".into());")
            });
        if let Some(literal) = literal {
            let of = if depth == 12 { "" } else { field };
            // Line breaks stay escaped (as in JSON) to keep one line for each entry.
            out.push_str(&format!("{name}\t{of}\t{literal}\n"));
        }
    }
}
