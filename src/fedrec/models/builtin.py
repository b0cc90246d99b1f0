"""The models that fedrec brings, by the names that plans and commands use."""

from __future__ import annotations

__all__ = ["MODELS"]

MODELS = {
    "autoencoder": "fedrec.models.networks.autoencoder:Autoencoder",
    "biased-mf": "fedrec.models.factors.biased_mf:BiasedMF",
    "blend": "fedrec.models.blend:Blend",
    "ease": "fedrec.models.linear.ease:EASE",
    "fcf": "fedrec.models.literature.fcf:FCF",
    "fedrecon": "fedrec.models.literature.fedrecon:FedRecon",
    "fedncf": "fedrec.models.literature.fedncf:FedNCF",
    "fedrap": "fedrec.models.literature.fedrap:FedRAP",
    "gpfedrec": "fedrec.models.literature.gpfedrec:GPFedRec",
    "ials": "fedrec.models.factors.ials:IALS",
    "itemknn": "fedrec.models.linear.itemknn:ItemKNN",
    "mf": "fedrec.models.factors.mf:MF",
    "pfedrec": "fedrec.models.literature.pfedrec:PFedRec",
    "popularity": "fedrec.models.linear.popularity:Popularity",
    "slit": "fedrec.models.linear.slit:SLIT",
    "spectral": "fedrec.models.linear.spectral:Spectral",
}
"""Name → module:class, imported when asked for."""
