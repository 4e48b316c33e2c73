use super::*;

const COMMIT: &str = "cccccccccccccccccccccccccccccccccccccccc";
const OTHER: &str = "dddddddddddddddddddddddddddddddddddddddd";

struct Fixture {
    _folder: tempfile::TempDir,
    cache: Cache,
    id: RepositoryId,
}

impl Fixture {
    fn new() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        Fixture {
            cache: Cache::at(folder.path().join("hub")),
            _folder: folder,
            id: "o/n".parse().unwrap(),
        }
    }

    /// A file as a pull leaves it.
    fn add(&self, commit: &str, name: &str, content: &str) {
        let digit = content.bytes().fold(0u8, u8::wrapping_add);
        let checksum = Checksum::git_blob(&format!("{digit:040x}")).unwrap();
        let blob = self.cache.blob(&self.id, &checksum);
        make_folder_of(&blob).unwrap();
        fs::write(blob, content).unwrap();
        self.cache
            .link(&self.id, commit, &name.parse().unwrap(), &checksum)
            .unwrap();
    }

    fn main_is(&self, commit: &str) {
        self.cache
            .remember(&self.id, &Revision::default(), commit)
            .unwrap();
    }

    fn find(&self, model: &str) -> Result<PathBuf, String> {
        let found = self.cache.find(&model.parse().unwrap(), false);
        let snapshots = self.cache.folder(&self.id).join(SNAPSHOTS);
        found
            .map(|found| found.path.strip_prefix(snapshots).unwrap().to_owned())
            .map_err(|e| e.to_string())
    }

    fn fails(&self, model: &str, why: &str) {
        let error = self.find(model).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_link_leads_to_its_blob_from_any_depth_and_again_when_it_was_wrong() {
    let f = Fixture::new();
    f.add(COMMIT, "a/b/c.gguf", "one");
    let path = f.cache.snapshot(&f.id, COMMIT).join("a/b/c.gguf");
    assert_eq!(fs::read_to_string(&path).unwrap(), "one");
    #[cfg(unix)]
    assert!(
        fs::read_link(&path)
            .unwrap()
            .starts_with("../../../../blobs")
    );
    f.add(COMMIT, "a/b/c.gguf", "two");
    assert_eq!(fs::read_to_string(&path).unwrap(), "two");
    assert!(
        f.cache
            .has(&f.id, COMMIT, &"a/b/c.gguf".parse().unwrap(), 3)
    );
    assert!(
        !f.cache
            .has(&f.id, COMMIT, &"a/b/c.gguf".parse().unwrap(), 4)
    );
    assert!(!f.cache.has(&f.id, COMMIT, &"a/b".parse().unwrap(), 3));
}

#[test]
fn a_model_is_found_by_main_by_revision_or_because_it_is_the_only_one() {
    let f = Fixture::new();
    f.fails("o/n", "nothing of it is there");
    f.add(COMMIT, "m.gguf", "one");
    let path = |commit: &str| Path::new(commit).join("m.gguf");
    assert_eq!(f.find("o/n").unwrap(), path(COMMIT));
    f.fails("o/n@main", "revision main of it is not there");
    f.add(OTHER, "m.gguf", "two");
    f.fails("o/n", "revision main");
    f.main_is(OTHER);
    assert_eq!(f.find("o/n").unwrap(), path(OTHER));
    assert_eq!(f.find(&format!("o/n@{COMMIT}")).unwrap(), path(COMMIT));
    f.fails("o/n@v2", "revision v2");
}

#[test]
fn what_is_missing_of_a_model_is_told() {
    let f = Fixture::new();
    f.main_is(COMMIT);
    f.add(COMMIT, "config.json", "{}");
    f.fails("o/n", "no file of it that can be run");
    f.add(
        COMMIT,
        "model.safetensors.index.json",
        r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#,
    );
    f.add(COMMIT, "model-1.safetensors", "x");
    f.add(COMMIT, "model-3.safetensors", "x");
    f.fails("o/n", "model-2.safetensors is missing");
    f.add(COMMIT, "model-2.safetensors", "y");
    assert_eq!(f.find("o/n").unwrap(), Path::new(COMMIT));
    f.add(COMMIT, "m-00002-of-00002.gguf", "z");
    f.fails("o/n:gguf", "m-00001-of-00002.gguf is missing");
    f.fails(
        "o/n:Q8_0",
        "only m-00002-of-00002.gguf and safetensors are there",
    );
}

#[test]
fn what_an_unfinished_download_has_brought_is_told() {
    let f = Fixture::new();
    let blobs = f.cache.folder(&f.id).join(BLOBS);
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join("abc.incomplete"), "").unwrap();
    f.fails("o/n", "nothing of it is there");
    fs::write(blobs.join("abc.incomplete"), "12345").unwrap();
    fs::write(blobs.join("def"), "whole").unwrap();
    let told = "no model of it is whole, and 10 bytes of an unfinished download are there";
    f.fails("o/n:Q2_0", told);
    for (offline, how) in [
        (false, "`bitnet pull 'o/n:a b'`"),
        (
            true,
            "`bitnet pull 'o/n:a b'` without --offline and HF_HUB_OFFLINE",
        ),
    ] {
        let error = f.cache.find(&"o/n:a b".parse().unwrap(), offline);
        let hint = format!("{how} downloads it, and goes on with what there is of it");
        assert_eq!(error.unwrap_err().hint(), hint);
    }
    // Beside another model, whose blobs are no part of it.
    f.add(COMMIT, "m.gguf", "one");
    f.fails(
        "o/n:Q2_0",
        "only m.gguf is there, and 5 bytes of an unfinished download are there",
    );
}

#[test]
fn commits_that_are_none_lead_nowhere() {
    let f = Fixture::new();
    f.add(COMMIT, "m.gguf", "one");
    let main = f.cache.folder(&f.id).join("refs/main");
    make_folder_of(&main).unwrap();
    for bad in ["../../..", "", "zz", &"c".repeat(100)] {
        fs::write(&main, bad).unwrap();
        assert_eq!(
            f.cache.commit_of(&f.id, &Revision::default()),
            None,
            "{bad}"
        );
    }
    fs::write(&main, format!("{COMMIT}\n")).unwrap();
    assert_eq!(
        f.cache.commit_of(&f.id, &Revision::default()).as_deref(),
        Some(COMMIT)
    );
}

#[test]
fn the_listing_counts_shared_bytes_once() {
    let f = Fixture::new();
    f.add(COMMIT, "m.gguf", "one");
    f.add(OTHER, "m.gguf", "one");
    f.add(OTHER, "more/config.json", "{}");
    f.main_is(OTHER);
    let folder = f.cache.folder(&f.id);
    fs::write(folder.join("blobs/abc.incomplete"), "12345").unwrap();
    fs::create_dir_all(f.cache.root().join("datasets--x--y")).unwrap();
    let list = f.cache.list();
    assert_eq!(list.len(), 1);
    let repository = &list[0];
    assert_eq!((repository.bytes, repository.unfinished_bytes), (5, 5));
    let revisions: Vec<_> = repository
        .snapshots
        .iter()
        .map(|s| (s.commit.as_str(), s.revisions.clone(), s.bytes()))
        .collect();
    assert_eq!(
        revisions,
        [(COMMIT, vec![], 3), (OTHER, vec!["main".to_owned()], 5)]
    );
    assert!(repository.snapshots[0].modified.is_some());
    assert_eq!(Cache::at("/no/such/folder").list(), []);
}

#[cfg(unix)]
#[test]
fn a_removal_leaves_what_another_snapshot_uses() {
    let f = Fixture::new();
    f.add(COMMIT, "m.gguf", "shared");
    f.add(COMMIT, "config.json", "alone");
    f.add(OTHER, "m.gguf", "shared");
    f.main_is(OTHER);
    let model = |text: &str| text.parse::<HubModel>().unwrap();
    let first = f.cache.remove(&model(&format!("o/n@{COMMIT}"))).unwrap();
    assert_eq!((first.n_files, first.freed), (2, 5));
    assert_eq!(f.cache.commits(&f.id), [OTHER]);
    f.find("o/n").unwrap();
    let all = f.cache.remove(&model("o/n")).unwrap();
    assert_eq!((all.n_files, all.freed), (1, 6));
    assert!(!f.cache.folder(&f.id).exists());
    assert!(matches!(
        f.cache.remove(&model("o/n")),
        Err(HubError::NotCached { .. })
    ));
}

#[cfg(unix)]
#[test]
fn what_several_names_mean_or_share_is_planned_once() {
    let f = Fixture::new();
    f.add(COMMIT, "m.gguf", "shared");
    f.add(COMMIT, "n.gguf", "alone");
    f.add(OTHER, "m.gguf", "shared");
    f.main_is(OTHER);
    let plan = |names: &[&str]| -> Vec<(usize, u64)> {
        let models: Vec<HubModel> = names.iter().map(|name| name.parse().unwrap()).collect();
        let planned = f.cache.plan_removals(&models).unwrap();
        planned.iter().map(|it| (it.n_files, it.freed)).collect()
    };
    let (one, other) = (format!("o/n@{COMMIT}"), format!("o/n@{OTHER}"));
    assert_eq!(plan(&[&one, &other]), [(2, 5), (1, 6)]);
    assert_eq!(plan(&["o/n:n.gguf", "o/n"]), [(1, 5), (2, 6)]);
    assert_eq!(plan(&["o/n", &one]), [(3, 11), (0, 0)]);
    let absent: [HubModel; 2] = ["o/n", "o/absent"].map(|name| name.parse().unwrap());
    assert!(matches!(
        f.cache.plan_removals(&absent),
        Err(HubError::NotCached { .. })
    ));
}

#[cfg(unix)]
#[test]
fn one_file_of_a_repository_can_go() {
    let f = Fixture::new();
    f.add(COMMIT, "m-Q2_0.gguf", "two");
    f.add(COMMIT, "m-TQ1_0.gguf", "three");
    f.main_is(COMMIT);
    let removal = f.cache.remove(&"o/n:tq1_0".parse().unwrap()).unwrap();
    assert_eq!((removal.n_files, removal.freed), (1, 5));
    assert_eq!(
        f.find("o/n").unwrap(),
        Path::new(COMMIT).join("m-Q2_0.gguf")
    );
    assert!(f.cache.remove(&"o/n:tq1_0".parse().unwrap()).is_err());
}

#[test]
fn nothing_is_left_and_nothing_listed_when_the_last_file_is_gone() {
    for (model, commits) in [
        ("o/n:m.gguf", &[COMMIT][..]),
        ("o/n:m.gguf", &[COMMIT, OTHER]),
        (&*format!("o/n@{COMMIT}"), &[COMMIT]),
        ("o/n@main", &[COMMIT]),
    ] {
        let f = Fixture::new();
        for commit in commits {
            f.add(commit, "m.gguf", "one");
        }
        f.main_is(COMMIT);
        f.cache.remove(&model.parse().unwrap()).unwrap();
        assert!(!f.cache.folder(&f.id).exists(), "{model}");
        // A folder without a file, as other tools may leave it.
        f.main_is(COMMIT);
        fs::create_dir_all(f.cache.snapshot(&f.id, COMMIT)).unwrap();
        assert_eq!(f.cache.list(), []);
    }
    let f = Fixture::new();
    f.add(COMMIT, "m.gguf", "one");
    let unfinished = f.cache.folder(&f.id).join("blobs/abc.incomplete");
    fs::write(&unfinished, "12345").unwrap();
    f.cache.remove(&"o/n:m.gguf".parse().unwrap()).unwrap();
    assert!(unfinished.exists());
    assert_eq!(f.cache.list()[0].unfinished_bytes, 5);
}

#[test]
fn what_is_being_downloaded_is_not_removed() {
    let f = Fixture::new();
    f.add(COMMIT, "m.gguf", "one");
    let blobs = f.cache.folder(&f.id).join(BLOBS);
    fs::write(blobs.join("abc.incomplete"), "1").unwrap();
    let model = "o/n".parse().unwrap();
    let lock = crate::lock::Lock::try_take(&f.cache.lock(&f.id, "abc")).unwrap();
    assert!(matches!(
        f.cache.remove(&model),
        Err(HubError::InUse { .. })
    ));
    f.find("o/n").unwrap();
    drop(lock);
    assert_eq!(f.cache.remove(&model).unwrap().freed, 4);
}

#[test]
fn a_file_goes_from_the_revision_that_has_it_though_another_has_others() {
    let f = Fixture::new();
    f.add(COMMIT, "m-Q2_0.gguf", "two");
    f.add(COMMIT, "m-TQ1_0.gguf", "three");
    f.add(OTHER, "m-Q2_0.gguf", "other two");
    let model: HubModel = "o/n:m-TQ1_0.gguf".parse().unwrap();
    assert_eq!(f.cache.remove(&model).unwrap().n_files, 1);
    assert_eq!(f.cache.commits(&f.id), [COMMIT, OTHER]);
    assert!(matches!(
        f.cache.remove(&model),
        Err(HubError::NotCached { .. })
    ));
}

#[test]
fn a_name_of_a_commit_goes_alone_while_the_commit_has_another() {
    let f = Fixture::new();
    f.add(COMMIT, "m.gguf", "one");
    f.main_is(COMMIT);
    let tag: Revision = "v1.0".parse().unwrap();
    f.cache.remember(&f.id, &tag, COMMIT).unwrap();
    let tagged: HubModel = "o/n@v1.0".parse().unwrap();
    let of_main: HubModel = "o/n@main".parse().unwrap();
    // Of a file alone nobody can say whose it is.
    let file: HubModel = "o/n:m.gguf@v1.0".parse().unwrap();
    let error = f.cache.plan_removal(&file).unwrap_err();
    assert!(
        error.to_string().contains("main is the same commit"),
        "{error}"
    );
    let both = f.cache.plan_removals(&[tagged.clone(), of_main.clone()]);
    let counts: Vec<usize> = both.unwrap().iter().map(|it| it.n_files).collect();
    assert_eq!(counts, [0, 1]);

    let removal = f.cache.remove(&tagged).unwrap();
    assert_eq!((removal.n_files, removal.freed), (0, 0));
    assert_eq!(removal.same_commit, ["main"]);
    assert_eq!(f.cache.commit_of(&f.id, &tag), None);
    f.find("o/n").unwrap();
    let removal = f.cache.remove(&of_main).unwrap();
    assert_eq!((removal.n_files, removal.freed), (1, 3));
    f.fails("o/n", "nothing of it is there");
}

#[test]
fn whoever_reads_a_revision_never_finds_half_of_it() {
    let f = Fixture::new();
    f.main_is(COMMIT);
    let path = f.cache.folder(&f.id).join("refs/main");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..200 {
                f.main_is(OTHER);
                f.main_is(COMMIT);
            }
        });
        while !writer.is_finished() {
            let text = fs::read_to_string(&path).unwrap();
            assert!([COMMIT, OTHER].contains(&text.as_str()), "{text:?}");
        }
    });
    assert_eq!(names_in(&f.cache.folder(&f.id)), [REFS]);
}

#[test]
fn where_a_file_system_lacks_links_the_file_itself_is_in_the_snapshot() {
    let f = Fixture::new();
    fs::create_dir_all(f.cache.root()).unwrap();
    let (blob, path) = (f.cache.root().join("blob"), f.cache.root().join("name"));
    let none: Way = |_, _, _| Err(io::ErrorKind::PermissionDenied.into());
    let put = |ways: &[Way]| place(ways, Path::new("blob"), &blob, &path);
    for (n_none, blob_stays) in [(0, true), (WAYS.len() - 2, true), (WAYS.len() - 1, false)] {
        let mut ways = WAYS;
        ways[..n_none].fill(none);
        fs::write(&blob, "bytes").unwrap();
        put(&ways).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "bytes");
        assert_eq!(blob.exists(), blob_stays);
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(
        put(&[none]).unwrap_err().kind(),
        io::ErrorKind::PermissionDenied
    );
    // What another process has done meanwhile is no reason to go on.
    fs::write(&path, "theirs").unwrap();
    fs::write(&blob, "bytes").unwrap();
    assert_eq!(put(&WAYS).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
}
