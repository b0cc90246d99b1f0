"""The models that fedrec brings, by the names that plans and commands use."""

from __future__ import annotations

__all__ = ["MODELS"]

MODELS = {
    "adapter": "fedrec.models.networks.adapter:Adapter",
    "autoencoder": "fedrec.models.networks.autoencoder:Autoencoder",
    "biased-mf": "fedrec.models.factors.biased_mf:BiasedMF",
    "blend": "fedrec.models.blend:Blend",
    "content": "fedrec.models.linear.content:Content",
    "ease": "fedrec.models.linear.ease:EASE",
    "fcf": "fedrec.models.literature.fcf:FCF",
    "fedncf": "fedrec.models.literature.fedncf:FedNCF",
    "fedrap": "fedrec.models.literature.fedrap:FedRAP",
    "fedrecon": "fedrec.models.literature.fedrecon:FedRecon",
    "gpfedrec": "fedrec.models.literature.gpfedrec:GPFedRec",
    "ials": "fedrec.models.factors.ials:IALS",
    "itemknn": "fedrec.models.linear.itemknn:ItemKNN",
    "lightgcn": "fedrec.models.networks.lightgcn:LightGCN",
    "lora": "fedrec.models.networks.lora:Lora",
    "mf": "fedrec.models.factors.mf:MF",
    "neumf": "fedrec.models.networks.neumf:NeuMF",
    "pfedrec": "fedrec.models.literature.pfedrec:PFedRec",
    "popularity": "fedrec.models.linear.popularity:Popularity",
    "sasrec": "fedrec.models.networks.sasrec:SASRec",
    "slit": "fedrec.models.linear.slit:SLIT",
    "spectral": "fedrec.models.linear.spectral:Spectral",
    "two-tower": "fedrec.models.networks.two_tower:TwoTower",
}
"""Name → module:class, imported when asked for."""
