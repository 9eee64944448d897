//! Who may ask what over HTTP: a file of named tokens, each with a scope, of which only the hashes
//! are stored. Reads, changes and writes that file; asking for a token is the API's.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::SocketAddr,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use rustix::{
    fs::{FlockOperation, OFlags, flock},
    process::geteuid,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What a token begins with: tools that look for leaked secrets know it by that.
const PREFIX: &str = "ntpmon_";
/// Random bytes in a token.
const ENTROPY: usize = 32;
/// Longest name of a token.
const MAX_NAME: usize = 64;

/// What a token allows.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To ask.
    Read,
    /// To change as well.
    Admin,
}

impl Scope {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

/// One who may ask.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Whose it is.
    pub name: String,
    /// What it allows.
    pub scope: Scope,
    /// When it was made.
    pub created: Timestamp,
    sha256: Hash,
}

/// A token's hash. One round is enough, and no salt: 256 random bits can neither be guessed nor be
/// found in a table, unlike a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hash([u8; 32]);

impl Hash {
    fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || de::Error::custom("a SHA-256 has 64 hexadecimal digits");
        if text.len() != 64 || !text.bytes().all(|it| it.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All tokens of a file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    #[serde(default, rename = "token")]
    all: Vec<Token>,
}

impl Tokens {
    /// Reads a file. There are no tokens where there is no file.
    ///
    /// # Errors
    /// When it is no regular file, cannot be read, says something else, or can be read by more than
    /// its owner.
    pub fn load(path: &Path) -> Result<Self> {
        // What is no regular file may make whoever opens it wait.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            file => file.with_context(|| format!("opening the tokens {}", path.display()))?,
        };
        Self::read(file, path)
    }

    fn read(mut file: File, path: &Path) -> Result<Self> {
        let metadata = file
            .metadata()
            .with_context(|| format!("looking at {}", path.display()))?;
        ensure!(
            metadata.is_file(),
            "the tokens {} are no regular file: name another one as api.tokens_file, and `ntpmon \
             token create` makes it",
            path.display()
        );
        let mode = metadata.permissions().mode() & 0o777;
        ensure!(
            mode & 0o077 == 0,
            "the tokens {} are open to others than their owner (mode {mode:04o}): chmod 600 {0}",
            path.display()
        );
        let mut text = String::new();
        file.read_to_string(&mut text)
            .with_context(|| format!("reading the tokens {}", path.display()))?;
        let tokens: Self = toml::from_str(&text)
            // Its own text is of several lines, and shows what stands there.
            .map_err(|error| {
                let before = error.span().and_then(|span| text.get(..span.start));
                let line = before.map_or(1, |before| 1 + before.matches('\n').count());
                anyhow::anyhow!("line {line}: {}", error.message())
            })
            .with_context(|| format!("reading the tokens {}", path.display()))?;
        tokens
            .check()
            .with_context(|| format!("reading the tokens {}", path.display()))?;
        Ok(tokens)
    }

    fn check(&self) -> Result<()> {
        for (index, token) in self.all.iter().enumerate() {
            check_name(&token.name)?;
            let mut twice = self.all.iter().take(index);
            ensure!(
                twice.all(|other| other.name != token.name),
                "there are two tokens of the name {}",
                token.name
            );
        }
        Ok(())
    }

    /// Whether nobody has a token.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Every token, in the order in which they were made.
    #[must_use]
    pub fn all(&self) -> &[Token] {
        &self.all
    }

    /// The token that was presented. Takes as long whichever it is, and if it is none.
    #[must_use]
    pub fn find(&self, presented: &str) -> Option<&Token> {
        let hash = Hash::of(presented);
        let mut found = None;
        for token in &self.all {
            if token.sha256.0.ct_eq(&hash.0).into() {
                found = Some(token);
            }
        }
        found
    }

    /// Checks that an address may be served: without tokens only this host's own users are let in.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn check_listen(&self, listen: SocketAddr) -> Result<()> {
        if self.is_empty() && !listen.ip().to_canonical().is_loopback() {
            bail!(
                "api.listen = \"{listen}\" is open to other hosts, and there is no token to ask \
                 them for: make one with `ntpmon token create NAME --scope read`, or listen on \
                 127.0.0.1"
            );
        }
        Ok(())
    }
}

/// A token that was just made, in full: what is shown once, and stored nowhere.
#[derive(Debug)]
pub struct Created(pub String);

/// The file of the tokens while it is being changed: nobody else changes it meanwhile.
#[derive(Debug)]
pub struct Change {
    path: PathBuf,
    tokens: Tokens,
    /// Who has to read it: whoever could, or whoever has the directory when it is new.
    owner: (u32, u32),
    /// Lets go of the lock when it is closed.
    _lock: File,
}

impl Change {
    /// Reads the file, and keeps others from changing it.
    ///
    /// # Errors
    /// As [`Tokens::load`], and when its directory cannot be written.
    pub fn begin(path: &Path) -> Result<Self> {
        let folder = folder(path);
        let lock = File::open(folder)
            .with_context(|| format!("opening the directory {}", folder.display()))?;
        flock(&lock, FlockOperation::LockExclusive)
            .with_context(|| format!("locking {}", folder.display()))?;
        let metadata = fs::metadata(path)
            .or_else(|_| lock.metadata())
            .with_context(|| format!("looking at {}", folder.display()))?;
        Ok(Self {
            path: path.to_path_buf(),
            tokens: Tokens::load(path)?,
            owner: (metadata.uid(), metadata.gid()),
            _lock: lock,
        })
    }

    /// Makes a token.
    ///
    /// # Errors
    /// When the name is taken or is none, or the kernel gives no random bytes.
    pub fn create(&mut self, name: &str, scope: Scope) -> Result<Created> {
        check_name(name)?;
        ensure!(
            self.tokens.all.iter().all(|token| token.name != name),
            "there is a token of the name {name} already: choose another name, or remove it first \
             with `ntpmon token remove {name}`"
        );
        let mut random = [0; ENTROPY];
        getrandom::fill(&mut random).context("asking the kernel for random bytes")?;
        let token = format!("{PREFIX}{}", hex(&random));
        self.tokens.all.push(Token {
            name: name.to_owned(),
            scope,
            created: Timestamp::from_second(Timestamp::now().as_second())?,
            sha256: Hash::of(&token),
        });
        Ok(Created(token))
    }

    /// Removes a token.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let before = self.tokens.all.len();
        self.tokens.all.retain(|token| token.name != name);
        ensure!(
            self.tokens.all.len() < before,
            "there is no token of the name {name} in {}",
            self.path.display()
        );
        Ok(())
    }

    /// Writes the file: whole or not at all, whatever happens meanwhile.
    ///
    /// # Errors
    /// Says which step failed; the file is as it was.
    pub fn commit(self) -> Result<()> {
        let text = format!(
            "# Made by `ntpmon token`. Of each token only the hash is here.\n\n{}",
            toml::to_string(&self.tokens).context("writing down the tokens")?
        );
        let mut name = self.path.file_name().unwrap_or_default().to_os_string();
        name.push(".new");
        let new = self.path.with_file_name(name);
        let written = self.replace(&new, &text);
        if written.is_err() {
            // What failed is told; a half-written file beside it would only be in the way.
            let _ = fs::remove_file(&new);
        }
        written
    }

    fn replace(&self, new: &Path, text: &str) -> Result<()> {
        let writing = || format!("writing {}", new.display());
        // One that a killed process left.
        if let Err(error) = fs::remove_file(new)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("removing {}", new.display()));
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(new)
            .with_context(writing)?;
        if geteuid().is_root() {
            // Whom it is for may be a daemon without root's rights.
            let (user, group) = self.owner;
            std::os::unix::fs::fchown(&file, Some(user), Some(group))
                .with_context(|| format!("giving {} to its owner", new.display()))?;
        }
        file.write_all(text.as_bytes()).with_context(writing)?;
        file.sync_all().with_context(writing)?;
        fs::rename(new, &self.path)
            .with_context(|| format!("renaming {} to {}", new.display(), self.path.display()))?;
        let folder = folder(&self.path);
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("writing the directory {}", folder.display()))
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn check_name(name: &str) -> Result<()> {
    let is_part = |it: char| it.is_ascii_alphanumeric() || "-_.@".contains(it);
    ensure!(
        (1..=MAX_NAME).contains(&name.len()) && name.chars().all(is_part),
        "'{name}' is no name for a token: expected 1 to {MAX_NAME} letters, digits, or - _ . @"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        (folder, path)
    }

    fn create(path: &Path, name: &str, scope: Scope) -> String {
        let mut change = Change::begin(path).unwrap();
        let Created(token) = change.create(name, scope).unwrap();
        change.commit().unwrap();
        token
    }

    #[test]
    fn a_token_is_found_by_itself_alone_and_stored_as_its_hash() {
        let (folder, path) = place();
        assert!(Tokens::load(&path).unwrap().is_empty());
        let reader = create(&path, "grafana", Scope::Read);
        let admin = create(&path, "ops@example", Scope::Admin);
        assert_eq!(reader.len(), PREFIX.len() + 64);
        assert_ne!(reader, admin);
        let text = fs::read_to_string(&path).unwrap();
        for token in [&reader, &admin] {
            assert!(!text.contains(token.strip_prefix(PREFIX).unwrap()));
        }
        assert!(text.contains(&hex(&Sha256::digest(&reader))));

        let tokens = Tokens::load(&path).unwrap();
        let found = |presented: &str| {
            tokens
                .find(presented)
                .map(|it| (it.name.as_str(), it.scope))
        };
        assert_eq!(found(&reader), Some(("grafana", Scope::Read)));
        assert_eq!(found(&admin), Some(("ops@example", Scope::Admin)));
        for wrong in [
            "",
            PREFIX,
            reader.strip_prefix(PREFIX).unwrap(),
            &reader.to_uppercase(),
            &format!("{reader} "),
            &hex(&Sha256::digest(&reader)),
        ] {
            assert_eq!(found(wrong), None, "{wrong}");
        }
        // Nothing is left of the writing.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_removed_token_is_refused_and_the_others_stay() {
        let (_folder, path) = place();
        let one = create(&path, "one", Scope::Read);
        let other = create(&path, "other", Scope::Admin);
        let mut change = Change::begin(&path).unwrap();
        change.remove("one").unwrap();
        let error = change.remove("one").unwrap_err().to_string();
        assert!(error.contains("no token of the name one"), "{error}");
        change.commit().unwrap();
        let tokens = Tokens::load(&path).unwrap();
        assert!(tokens.find(&one).is_none());
        assert!(tokens.find(&other).is_some());
    }

    #[test]
    fn a_name_is_given_once_and_is_a_name() {
        let (_folder, path) = place();
        create(&path, "one", Scope::Read);
        let mut change = Change::begin(&path).unwrap();
        for name in ["one", "", "two words", "a\nb", &"a".repeat(65)] {
            assert!(change.create(name, Scope::Read).is_err(), "{name}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_and_one_of_ours_cannot_be() {
        let (_folder, path) = place();
        create(&path, "one", Scope::Read);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        for open in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
            let error = Tokens::load(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("mode {open:04o}")), "{error}");
            assert!(error.contains("chmod 600"), "{error}");
            assert!(Change::begin(&path).is_err());
        }
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let (folder, path) = place();
        let refusal = |path: &Path| Tokens::load(path).unwrap_err().to_string();
        let pipe = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, pipe, mode, 0).unwrap();
        // Nobody writes into the pipe: whoever opened it as a file would wait for ever.
        for path in [&path, folder.path(), Path::new("/dev/null")] {
            let error = refusal(path);
            assert!(error.contains("no regular file"), "{error}");
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
        // A link to a file is as good as the file.
        let (_folder, real) = place();
        let token = create(&real, "one", Scope::Read);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&real, &path).unwrap();
        assert!(Tokens::load(&path).unwrap().find(&token).is_some());
    }

    #[test]
    fn a_file_belongs_to_whom_the_directory_belongs() {
        let (folder, path) = place();
        let user = if geteuid().is_root() {
            65_534
        } else {
            geteuid().as_raw()
        };
        std::os::unix::fs::chown(folder.path(), Some(user), None).unwrap();
        create(&path, "one", Scope::Read);
        assert_eq!(fs::metadata(&path).unwrap().uid(), user);
        create(&path, "other", Scope::Read);
        assert_eq!(fs::metadata(&path).unwrap().uid(), user);
    }

    #[test]
    fn a_broken_file_is_told_with_its_line_and_without_what_stands_there() {
        let (_folder, path) = place();
        create(&path, "one", Scope::Read);
        let right = fs::read_to_string(&path).unwrap();
        let digits = hex(&[0xab; 32]);
        let cases = [
            right.replace("read", "root"),
            right.replace("sha256", "sha1"),
            format!("{right}{}", right.split_once("[[").unwrap().1),
            right.replace("sha256 = \"", &format!("sha256 = \"{digits}")),
            format!(
                "{right}\n[[token]]\nname = \"one\"\nscope = \"read\"\ncreated = \"2026-01-01T00:00:00Z\"\nsha256 = \"{digits}\"\n"
            ),
        ];
        for text in cases {
            fs::write(&path, &text).unwrap();
            let error = format!("{:#}", Tokens::load(&path).unwrap_err());
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
            assert!(!error.contains(&digits), "{error}");
        }
    }

    #[test]
    fn without_tokens_only_loopback_is_served() {
        let (_folder, path) = place();
        let none = Tokens::load(&path).unwrap();
        create(&path, "one", Scope::Read);
        let some = Tokens::load(&path).unwrap();
        for address in [
            "127.0.0.1:1",
            "127.9.9.9:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            none.check_listen(address.parse().unwrap()).unwrap();
        }
        for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[2001:db8::1]:1"] {
            let listen = address.parse().unwrap();
            let error = none.check_listen(listen).unwrap_err().to_string();
            assert!(
                error.contains(address) && error.contains("token create"),
                "{error}"
            );
            some.check_listen(listen).unwrap();
        }
    }
}
