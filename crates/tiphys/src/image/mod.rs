//! Container images that are made here: the binary itself (as pause container and as the demo's
//! server), together with busybox's shell and tools. No registry is needed for them.

mod busybox;
mod oci;

use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use supervisor::doctor::find_program;

use oci::{Entry, Image, Layer};

/// The pod sandbox's image.
pub const PAUSE: &str = "tiphys.local/pause:1";
/// The demo's image: the binary as `/bin/tiphys`, and busybox.
pub const DEMO: &str = "tiphys.local/demo:1";
/// Busybox alone, for everyday use in a cluster without a registry.
pub const BUSYBOX: &str = "tiphys.local/busybox:1";

/// Writes the images that this cluster needs to `dir`, each as an OCI archive, and returns how
/// many there are. Archives that were made of the same programs are left alone.
pub fn write_all(dir: &Path, binary: &Path) -> Result<usize> {
    fs::create_dir_all(dir)?;
    let sources = sources(binary)?;
    let mark = dir.join(".made-of");
    if let Some(names) = made_before(dir, &mark, &sources) {
        return Ok(names);
    }
    // Without the mark, what is half written is made again.
    let _ = fs::remove_file(&mark);
    let program = [
        Entry::dir("bin"),
        Entry::copy("bin/tiphys", 0o755, binary),
        Entry::dir("tmp"),
    ];
    let tiphys = oci::layer(&program, &dir.join(".tiphys.layer"))?;
    let tools = busybox::layer(&dir.join(".busybox.layer"))?;
    let mut layers = vec![tiphys.clone()];
    layers.extend(tools.clone());
    let images = images(tiphys, tools);
    for (file, image) in &images {
        write(dir, file, image)?;
    }
    oci::remove(&layers);
    let line = |(file, _): &(&str, Image)| -> Result<String> {
        Ok(format!("{} {file}", fs::metadata(dir.join(file))?.len()))
    };
    let lines: Result<Vec<String>> = images.iter().map(line).collect();
    fs::write(&mark, format!("{sources}\n{}", lines?.join("\n")))?;
    Ok(images.len())
}

fn images(tiphys: Layer, tools: Option<Layer>) -> Vec<(&'static str, Image)> {
    let pause = Image {
        name: PAUSE.into(),
        layers: vec![tiphys.clone()],
        entrypoint: vec!["/bin/tiphys".into(), "pause".into()],
        command: Vec::new(),
        user: "65535:65535".into(),
        // Read by the allocator before `main`: two huge pages are 4 MiB in every pod.
        env: vec!["MIMALLOC_ALLOW_THP=0".into()],
    };
    let mut images = vec![("pause.tar", pause)];
    if let Some(tools) = tools {
        let busybox = Image {
            name: BUSYBOX.into(),
            layers: vec![tools.clone()],
            entrypoint: Vec::new(),
            command: vec!["sh".into()],
            user: String::new(),
            env: Vec::new(),
        };
        let demo = Image {
            name: DEMO.into(),
            layers: vec![tiphys, tools],
            entrypoint: Vec::new(),
            command: vec!["/bin/tiphys".into(), "demo-server".into()],
            user: String::new(),
            env: Vec::new(),
        };
        images.extend([("busybox.tar", busybox), ("demo.tar", demo)]);
    }
    images
}

/// What the images are made of: size and time of the programs.
fn sources(binary: &Path) -> Result<String> {
    let busybox = find_program("busybox");
    let files = [Some(binary), busybox.as_deref()];
    let stamp = |path: &Path| -> Result<String> {
        let meta = fs::metadata(path).with_context(|| format!("reading {}", path.display()))?;
        let (seconds, nanos) = (meta.mtime(), meta.mtime_nsec());
        Ok(format!(
            "{} {seconds}.{nanos} {}",
            meta.len(),
            path.display()
        ))
    };
    let stamps: Result<Vec<String>> = files.into_iter().flatten().map(stamp).collect();
    Ok(stamps?.join(" "))
}

/// How many images an earlier run made of the same programs, if all of them are there, and as long
/// as they were: a power cut may leave less of what was written.
fn made_before(dir: &Path, mark: &Path, sources: &str) -> Option<usize> {
    let text = fs::read_to_string(mark).ok()?;
    let names = text.strip_prefix(sources)?.strip_prefix('\n')?;
    let is_whole = |line: &str| {
        let (size, name) = line.split_once(' ')?;
        let found = fs::metadata(dir.join(name)).ok()?;
        Some(found.is_file() && size.parse() == Ok(found.len()))
    };
    let all = names.lines().all(|line| is_whole(line) == Some(true));
    all.then(|| names.lines().count())
}

fn write(dir: &Path, file: &str, image: &Image) -> Result<()> {
    let beside = dir.join(format!(".{file}.new"));
    let out = File::create(&beside).with_context(|| format!("making {}", beside.display()))?;
    oci::write_archive(image, BufWriter::new(out))?;
    Ok(fs::rename(&beside, dir.join(file))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_made_again_only_when_the_binary_changes() {
        let dir = tempfile::tempdir().expect("dir");
        let (binary, images) = (dir.path().join("binary"), dir.path().join("images"));
        fs::write(&binary, b"one").expect("binary");
        let count = write_all(&images, &binary).expect("made");
        let made = |name: &str| fs::metadata(images.join(name)).expect("archive").ino();
        let first = made("pause.tar");
        assert_eq!(write_all(&images, &binary).expect("again"), count);
        assert_eq!(made("pause.tar"), first);
        fs::write(&binary, b"other").expect("binary");
        write_all(&images, &binary).expect("new");
        assert_ne!(made("pause.tar"), first);
        let second = made("pause.tar");
        fs::remove_file(images.join("pause.tar")).expect("removed");
        write_all(&images, &binary).expect("repaired");
        assert!(images.join("pause.tar").is_file());
        assert_ne!(second, 0);
        fs::write(images.join("pause.tar"), b"").expect("cut short");
        write_all(&images, &binary).expect("repaired");
        let whole = fs::metadata(images.join("pause.tar")).expect("archive");
        assert_ne!(whole.len(), 0);
        let left = fs::read_dir(&images).expect("list").filter_map(Result::ok);
        let layers = left.filter(|e| e.path().extension().is_some_and(|e| e == "layer"));
        assert_eq!(layers.count(), 0);
    }
}
