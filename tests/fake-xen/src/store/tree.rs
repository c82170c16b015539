//! Nodes and their permissions.

use std::collections::BTreeMap;

use xen_pv_rt::hyp::Domid;

use super::Change;

/// What a domain may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Perm {
    /// Nothing.
    None,
    /// Read it.
    Read,
    /// Write it.
    Write,
    /// Both.
    Both,
}

impl Perm {
    const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }
    const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }
}

/// The permissions of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Perms {
    /// May do everything, and is charged for the node.
    pub owner: Domid,
    /// What domains may do that are not listed.
    pub others: Perm,
    /// What these may do.
    pub listed: Vec<(Domid, Perm)>,
}

impl Perms {
    /// Only the owner, and Dom0 as ever.
    pub const fn private(owner: Domid) -> Self {
        Self { owner, others: Perm::None, listed: Vec::new() }
    }

    /// The owner, and one domain that may read.
    pub fn shared(owner: Domid, reader: Domid) -> Self {
        Self { owner, others: Perm::None, listed: vec![(reader, Perm::Read)] }
    }

    fn of(&self, domid: Domid) -> Perm {
        if domid == Domid::DOM0 || domid == self.owner {
            return Perm::Both;
        }
        self.listed.iter().find(|(listed, _)| *listed == domid).map_or(self.others, |(_, perm)| *perm)
    }

    pub(crate) fn may_read(&self, domid: Domid) -> bool {
        self.of(domid).reads()
    }

    pub(crate) fn may_write(&self, domid: Domid) -> bool {
        self.of(domid).writes()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Vec<u8>,
    pub(crate) perms: Perms,
    /// When the node, or the list of its children, was last changed.
    pub(crate) generation: u64,
}

#[derive(Clone)]
pub(crate) struct Tree {
    nodes: BTreeMap<String, Node>,
    generation: u64,
}

/// The path of the directory that a node is in.
pub(crate) fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

/// Whether `path` is `top` or below it.
pub(crate) fn is_below(path: &str, top: &str) -> bool {
    top == "/" || path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Tree {
    pub(crate) fn new() -> Self {
        let root = Node { value: Vec::new(), perms: Perms::private(Domid::DOM0), generation: 0 };
        Self { nodes: BTreeMap::from([("/".to_string(), root)]), generation: 0 }
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// The node, or the nearest one above it.
    pub(crate) fn nearest(&self, path: &str) -> (&str, &Node) {
        let mut path = path;
        loop {
            if let Some((path, node)) = self.nodes.get_key_value(path) {
                return (path, node);
            }
            path = parent(path);
        }
    }

    pub(crate) fn children(&self, path: &str) -> Vec<String> {
        let prefix = if path == "/" { "/".to_string() } else { format!("{path}/") };
        let below = self.nodes.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix));
        below
            .filter_map(|(path, _)| path.strip_prefix(&prefix))
            .filter(|name| !name.is_empty() && !name.contains('/'))
            .map(str::to_string)
            .collect()
    }

    /// Every node at or below `path`, with its value.
    pub(crate) fn dump(&self, path: &str) -> Vec<(String, String)> {
        let nodes = self.nodes.iter().filter(|(name, _)| is_below(name, path));
        nodes.map(|(name, node)| (name.clone(), String::from_utf8_lossy(&node.value).into_owned())).collect()
    }

    pub(crate) fn owned_by(&self, domid: Domid) -> usize {
        self.nodes.values().filter(|node| node.perms.owner == domid).count()
    }

    /// Nodes that writing `path` would create.
    pub(crate) fn missing(&self, path: &str) -> usize {
        let mut path = path;
        let mut missing = 0;
        while !self.nodes.contains_key(path) {
            missing += 1;
            path = parent(path);
        }
        missing
    }

    fn touch(&mut self, path: &str) {
        self.generation += 1;
        let generation = self.generation;
        if let Some(node) = self.nodes.get_mut(path) {
            node.generation = generation;
        }
    }

    fn create(&mut self, by: Domid, path: &str) {
        if self.nodes.contains_key(path) {
            return;
        }
        let above = parent(path).to_string();
        self.create(by, &above);
        let mut perms = self.nodes[&above].perms.clone();
        // xenstored: whoever is not privileged owns what it creates.
        if by != Domid::DOM0 {
            perms.owner = by;
        }
        self.nodes.insert(path.to_string(), Node { value: Vec::new(), perms, generation: 0 });
        self.touch(path);
        self.touch(&above);
    }

    /// Carries out a change. Returns the events: path, who may see it, and whether only watches of exactly
    /// that path are meant.
    pub(crate) fn apply(&mut self, by: Domid, change: &Change) -> Vec<(String, Perms, bool)> {
        match change {
            Change::Write(path, value) => {
                self.create(by, path);
                self.nodes.get_mut(path).unwrap().value.clone_from(value);
                self.touch(path);
                vec![(path.clone(), self.nodes[path].perms.clone(), false)]
            }
            Change::SetPerms(path, perms) => {
                self.create(by, path);
                self.nodes.get_mut(path).unwrap().perms = perms.clone();
                self.touch(path);
                vec![(path.clone(), perms.clone(), false)]
            }
            Change::Remove(path) => {
                let below: Vec<String> = self.nodes.keys().filter(|name| is_below(name, path)).cloned().collect();
                let mut events = Vec::new();
                for name in below {
                    let node = self.nodes.remove(&name).unwrap();
                    events.push((name.clone(), node.perms, name != *path));
                }
                let above = parent(path).to_string();
                self.touch(&above);
                events
            }
        }
    }
}
