"""Client-side encryption: objects leave this machine encrypted and are verified before a byte of them is used."""
