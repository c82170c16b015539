//! Guests of a [`Rig`], with vifs as the toolstack makes them.

use fake_xen::{Netfront, NetfrontOptions, VifConfig};

use super::{Guest, Rig};

impl Rig {
    /// Creates a domain with a vif, without letting time pass.
    pub fn add(&mut self, options: NetfrontOptions) -> Guest {
        self.add_with(options, &[])
    }

    /// Creates a domain with a vif that has these keys, without letting time pass.
    pub fn add_with_keys(&mut self, keys: &[(&str, &str)]) -> Guest {
        self.add_with(NetfrontOptions::default(), keys)
    }

    fn add_with(&mut self, options: NetfrontOptions, keys: &[(&str, &str)]) -> Guest {
        let guest = self.fronts.len();
        let mut config = Self::vif_config(guest);
        for (key, value) in keys {
            match *key {
                "bridge" => config.bridge = (*value).to_string(),
                key => config.more.push((key.to_string(), (*value).to_string())),
            }
        }
        let domid = self.toolstack.create_domain(&format!("guest{guest}"));
        let device = self.toolstack.create_vif(domid, 0, &config);
        self.fronts.push(Netfront::new(&self.xen, device, options));
        guest
    }

    /// Creates the first domain, with so many vifs, without letting time pass.
    pub fn add_domain_of(&mut self, vifs: u32) {
        let domid = self.toolstack.create_domain("several vifs");
        for devid in 0..vifs {
            let device = self.toolstack.create_vif(domid, devid, &Self::vif_config(devid as usize));
            self.fronts.push(Netfront::new(&self.xen, device, NetfrontOptions::default()));
        }
    }

    /// Creates a domain with a vif that has these keys and waits until it is connected.
    pub fn guest_keyed(&mut self, keys: &[(&str, &str)]) -> Guest {
        self.guest_with_keys(NetfrontOptions::default(), keys)
    }

    /// Creates a domain with a vif that has these keys and waits until it is connected.
    pub fn guest_with_keys(&mut self, options: NetfrontOptions, keys: &[(&str, &str)]) -> Guest {
        let guest = self.add_with(options, keys);
        self.until("the guest is connected", |rig| rig.is_connected(guest));
        guest
    }

    /// Creates a domain with a vif and waits until it is connected.
    pub fn guest_with(&mut self, options: NetfrontOptions) -> Guest {
        self.guest_with_keys(options, &[])
    }

    pub fn guest(&mut self) -> Guest {
        self.guest_with(NetfrontOptions::default())
    }

    pub fn vif_config(guest: Guest) -> VifConfig {
        let [a, b, c, d, e, f] = Self::mac(guest);
        VifConfig { mac: format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"), ..VifConfig::default() }
    }
}
