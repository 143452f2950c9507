"""What `neverblink serve` can be told: every option and its default, written once."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from neverblink.errors import ConfigError
from neverblink.memory.journal import default_folder


@dataclass(frozen=True)
class ServeOptions:
    host: str = "127.0.0.1"
    port: int = 8765  # 0 takes a free one
    api_key: str | None = None
    allow_hosts: tuple[str, ...] = ()  # names under which browsers reach us, besides this machine's own
    allow_origins: tuple[str, ...] = ()  # pages of other sites that may call us
    allow_private_urls: bool = False  # may a client have us fetch from private addresses
    data: str | None = None  # folder of journal, snapshots and uploads; None: the user's data folder
    max_streams: int = 8
    keep_days: float = 30.0
    keep_mb: float = 2048.0  # of the journal
    max_upload_mb: float = 2048.0
    snapshot_seconds: float = 5.0  # at least, between two snapshots of one stream

    @property
    def folder(self) -> Path:
        return Path(self.data) if self.data is not None else default_folder()

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach us."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self) -> None:
        """Refuse what cannot be meant, and what would be open to everybody; raises ConfigError in one line."""
        if not self.loopback and not self.api_key:
            raise ConfigError(
                f"--host {self.host} can be reached from other machines and there is no key; add --api-key KEY "
                f"(or NEVERBLINK_API_KEY), or leave the host at 127.0.0.1"
            )
        if self.api_key is not None and len(self.api_key) < 8:
            raise ConfigError(f"the API key has {len(self.api_key)} characters; take 8 or more")
        if not 0 <= self.port < 65536:
            raise ConfigError(f"--port is {self.port}; it must be 0 to 65535")
        for name in ("max_streams", "keep_days", "keep_mb", "max_upload_mb", "snapshot_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be above 0")
