//! Folders that somebody changes while they are looked into.

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

fn inode(place: &OwnedFd) -> u64 {
    rustix::fs::fstat(place).unwrap().st_ino
}

#[test]
fn a_folder_is_listed_and_none_outside() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("v");
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    std::fs::write(root.join("a/c"), "").unwrap();
    symlink("../..", root.join("a/out")).unwrap();
    let mut names = list_folder(&root, Path::new("a")).unwrap();
    names.sort();
    let expected = [("b", true), ("c", false), ("out", false)];
    assert_eq!(names, expected.map(|(name, is)| (name.into(), is)));
    assert_eq!(list_folder(&root, Path::new("")).unwrap().len(), 1);
    assert!(list_folder(&root, Path::new("a/out")).is_err());
    assert!(list_folder(&root, Path::new("a/c")).is_err());
}

#[test]
fn links_are_followed_as_long_as_they_stay_inside() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("v");
    std::fs::create_dir_all(volume.join("real/deep")).unwrap();
    std::fs::write(dir.path().join("secret"), "s").unwrap();
    let real = std::fs::metadata(volume.join("real/deep")).unwrap().ino();
    symlink("real", volume.join("relative")).unwrap();
    symlink("../real", volume.join("real/up")).unwrap();
    symlink(volume.join("real"), volume.join("absolute")).unwrap();
    symlink("../secret", volume.join("out")).unwrap();
    symlink("/", volume.join("root")).unwrap();
    symlink(format!("{}/..", volume.display()), volume.join("above")).unwrap();
    for sub in [
        "real/deep",
        "relative/deep",
        "real/up/deep",
        "absolute/deep",
        "./real//deep",
    ] {
        assert_eq!(
            inode(&open(&volume, Path::new(sub)).unwrap()),
            real,
            "{sub}"
        );
    }
    for sub in [
        "out",
        "root",
        "root/etc",
        "above",
        "above/secret",
        "../secret",
        "/etc",
        "/",
    ] {
        assert!(open(&volume, Path::new(sub)).is_err(), "{sub}");
        assert!(
            open_or_make(&volume, Path::new(sub), 0o777).is_err(),
            "{sub}"
        );
    }
    assert!(open(&volume, Path::new("")).is_ok());
}

#[test]
fn missing_folders_are_made_inside_with_the_mode_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("v");
    std::fs::create_dir_all(volume.join("a")).unwrap();
    symlink("a", volume.join("link")).unwrap();
    symlink("/", volume.join("root")).unwrap();
    symlink("nowhere", volume.join("dangling")).unwrap();
    open_or_make(&volume, Path::new("link/b/c"), 0o2777).unwrap();
    for made in ["a/b", "a/b/c"] {
        let mode = volume.join(made).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o2777, "{made}");
    }
    let new = format!("root/{}-new", dir.path().file_name().unwrap().display());
    assert!(open_or_make(&volume, Path::new(&new), 0o777).is_err());
    assert!(
        !Path::new("/")
            .join(new.trim_start_matches("root/"))
            .exists()
    );
    assert!(open_or_make(&volume, Path::new("dangling/x"), 0o777).is_err());
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "threads that race are what is tested"
)]
fn several_may_make_the_same_folder_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..50 {
        let sub = PathBuf::from(format!("{round}/a/b/c"));
        std::thread::scope(|scope| {
            let make = || open_or_make(dir.path(), &sub, 0o755).map(drop);
            let all: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
            for one in all {
                one.join().unwrap().unwrap();
            }
        });
        assert!(dir.path().join(&sub).is_dir());
    }
    // A link to nothing is an error, and nothing is made where it points to.
    std::os::unix::fs::symlink("nothing", dir.path().join("link")).unwrap();
    assert!(open_or_make(dir.path(), Path::new("link"), 0o755).is_err());
    assert!(!dir.path().join("nothing").exists());
}

/// One thread changes a name between a folder and a link to the outside as fast as it can;
/// whatever is opened or made meanwhile is inside.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "threads that race are what is tested"
)]
fn a_race_never_leads_out() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("v");
    let outside = dir.path().join("outside");
    std::fs::create_dir_all(volume.join("folder/sub")).unwrap();
    std::fs::create_dir_all(outside.join("sub")).unwrap();
    symlink("../outside", volume.join("link")).unwrap();
    symlink(&outside, volume.join("absolute")).unwrap();
    let bad = [
        outside.metadata().unwrap().ino(),
        outside.join("sub").metadata().unwrap().ino(),
    ];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let swap = |a: &str, b: &str| {
                let how = RenameFlags::EXCHANGE;
                let (a, b) = (volume.join(a), volume.join(b));
                let _ = rustix::fs::renameat_with(CWD, &a, CWD, &b, how);
            };
            while !stop.load(Ordering::Relaxed) {
                swap("folder", "link");
                swap("folder", "absolute");
            }
        });
        let mut found = 0;
        for round in 0..4_000 {
            let made = format!("folder/new-{round}");
            for sub in ["folder", "folder/sub", &made] {
                if let Ok(place) = open_or_make(&volume, Path::new(sub), 0o777) {
                    found += 1;
                    assert!(!bad.contains(&inode(&place)), "{sub} led out");
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(found > 0, "nothing was found at all");
    });
    let made = std::fs::read_dir(&outside).unwrap().count();
    assert_eq!(made, 1, "something was made outside");
}

#[test]
fn only_ordinary_files_are_opened() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    symlink(&file, dir.path().join("link")).unwrap();
    rustix::fs::mknodat(
        CWD,
        dir.path().join("pipe"),
        FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert!(open_file(&file).is_ok());
    for name in ["link", "pipe", ".", "none"] {
        assert!(open_file(&dir.path().join(name)).is_err(), "{name}");
    }
}

#[test]
fn a_file_below_is_read_as_if_its_folder_were_the_whole_tree() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("v");
    std::fs::create_dir_all(volume.join("a")).unwrap();
    std::fs::write(volume.join("a/file"), "inside").unwrap();
    std::fs::write(dir.path().join("secret"), "outside").unwrap();
    symlink("a/file", volume.join("link")).unwrap();
    symlink("/a/file", volume.join("absolute")).unwrap();
    symlink("../secret", volume.join("secret")).unwrap();
    symlink(dir.path().join("secret"), volume.join("far")).unwrap();
    let read = |sub: &str| read_file(&volume, Path::new(sub), 6);
    for sub in ["a/file", "link", "absolute", "/a/file", "../a/file"] {
        assert_eq!(read(sub).unwrap(), b"inside", "{sub}");
    }
    for sub in ["secret", "far", "a", "none", ""] {
        assert!(read(sub).is_err(), "{sub}");
    }
    assert!(read_file(&volume, Path::new("a/file"), 5).is_err());
}

#[test]
fn a_tree_of_any_depth_is_removed_and_links_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("file"), "x").unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    symlink(&kept, tree.join("link")).unwrap();
    let mut at = open_folder(&tree).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
        rustix::fs::symlinkat("/", &at, "l").ok();
        at = rustix::fs::openat(&at, "d", OFlags::PATH, Mode::empty()).unwrap();
    }
    drop(at);
    // Itself and `link`; 3000 folders, each beside a link.
    let (bytes, inodes) = usage(&tree);
    assert_eq!(inodes, 2 + 3000 + 3000);
    assert!(bytes < 100 << 20, "{bytes}");
    assert_eq!(usage(&tree.join("link")), (0, 0));
    remove_tree(&tree).unwrap();
    assert!(!tree.exists() && kept.join("file").exists());
    remove_tree(&tree).unwrap();
}

#[test]
fn a_tree_is_given_to_a_group() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("v");
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    std::fs::write(root.join("a/file"), "x").unwrap();
    std::fs::write(dir.path().join("outside"), "x").unwrap();
    let mode = |p: &str, m: u32| {
        let m = std::fs::Permissions::from_mode(m);
        std::fs::set_permissions(dir.path().join(p), m).unwrap();
    };
    mode("v/a/file", 0o600);
    mode("v/a/b", 0o700);
    mode("outside", 0o600);
    symlink(dir.path().join("outside"), root.join("a/link")).unwrap();
    // Its own group, which every user may give.
    let gid = std::fs::metadata(&root).unwrap().gid();
    give_to_group(&root, gid, false).unwrap();
    let of = |p: &str| std::fs::metadata(dir.path().join(p)).unwrap().mode() & 0o7777;
    assert_eq!(of("v/a/file"), 0o660);
    assert_eq!(of("v/a/b"), 0o2770);
    assert_eq!(of("outside"), 0o600, "behind a link");
    // As it should be at the top: nothing below is touched.
    mode("v/a/file", 0o600);
    give_to_group(&root, gid, true).unwrap();
    assert_eq!(of("v/a/file"), 0o600);
    mode("v", 0o755);
    give_to_group(&root, gid, true).unwrap();
    assert_eq!(of("v/a/file"), 0o660);
}
