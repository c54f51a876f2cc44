"""Table of encoder methods: they render an identity from its photos, without training it.

A row names classes as `module:name`, so that the table imports no torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Method:
    """One encoder method.

    Attributes:
        name: Value of `--method`, and of `method.name` in its preset.
        title: Name in texts, with the publication.
        family: Family of its base model.
        driver: Class that fulfils the protocol `EncoderMethod`, as `module:name`.
        preset: Preset with its base model, its weights, and the settings of its sampler.
        extra: Extra of pv that installs its `packages`; empty if it needs none.
        packages: Packages that are imported when it renders, besides those of pv.
    """

    name: str
    title: str
    family: str
    driver: str
    preset: str
    extra: str = ""
    packages: tuple[str, ...] = ()


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="consisid",
            title="ConsisID (arXiv 2411.17440)",
            family="consisid",
            driver="pvtool_core.methods.consisid:ConsisId",
            preset="consisid",
            extra="consisid",
            packages=("facexlib", "consisid_eva_clip", "sentencepiece"),
        ),
        Method(
            name="id-animator",
            title="ID-Animator (arXiv 2404.15275)",
            family="animatediff",
            driver="pvtool_core.methods.id_animator:IdAnimator",
            preset="id-animator",
        ),
    )
}
"""All methods, by name."""
