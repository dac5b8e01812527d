//! Files that others read while they are written: they see the old or the new.

use std::io::Write;
use std::path::Path;

/// Replaces a file at once, making its folder if needed.
pub fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // The runtime reads only files that end in conf, conflist or json.
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}
