"""Mixup, CutMix and random erasing: what the device's half of the input does on request."""

import jax
import jax.numpy as jnp

ERASED_AREAS, ERASED_ASPECTS = (0.02, 0.4), (0.3, 1 / 0.3)  # Zhong et al. (2017), section 5


def own_share(keys: jax.Array, *, px: int, mixup: float, cutmix: float) -> jax.Array:
    """The share, 0 to 1, that an image has in each pixel of its mixture with another image.

    Mixup (Zhang et al., 2018): the same share in all pixels. CutMix (Yun et al., 2019): 0 in a box,
    1 outside. The share is drawn from Beta(a, a), a being `mixup` or `cutmix`; where both are above
    0, each image draws one of them. The mean over pixels is the label's share.

    Args:
        keys: [b], a key for each image.

    Returns:
        float32 [b, px, px, 1].
    """

    def of_one(key: jax.Array) -> jax.Array:
        kind_key, share_key, box_key = jax.random.split(key, 3)
        p_cutmix = 0.5 if mixup and cutmix else float(cutmix > 0)
        cut = jax.random.bernoulli(kind_key, p_cutmix)
        a = jnp.where(cut, cutmix, mixup)
        share = _symmetric_beta(share_key, a)
        middle = jax.random.uniform(box_key, (2,)) * px
        half = jnp.sqrt(1 - share) * px / 2
        centres = jnp.arange(px, dtype=jnp.float32) + 0.5
        inside = jnp.abs(centres[None] - middle[:, None]) < half  # [2, px], rows and columns
        box = inside[0][:, None] & inside[1][None]
        return jnp.where(cut, jnp.where(box, 0.0, 1.0), share)[..., None]

    return jax.vmap(of_one)(keys)


def _symmetric_beta(key: jax.Array, a: jax.Array) -> jax.Array:
    """A sample of Beta(a, a), a > 0.

    jax.random.beta rejects and redraws until every image of the batch has a sample: each iteration
    synchronises all devices. Bailey (1994): with w = u^(1/a), T = sqrt(2a (1/w - 1)) cos(2 pi v)
    has Student's t distribution with 2a degrees of freedom, and (1 + T / sqrt(2a + T^2)) / 2 is
    Beta(a, a). The code multiplies both sides of the fraction by sqrt(w / 2a), which avoids
    dividing by w = 0: t is T sqrt(w / 2a).
    """
    u, v = jax.random.uniform(key, (2,))
    w = u ** (1 / a)
    t = jnp.sqrt(1 - w) * jnp.cos(2 * jnp.pi * v)
    return (1 + t / jnp.sqrt(w + t * t)) / 2


def kept(keys: jax.Array, *, px: int, share: float) -> jax.Array:
    """Random erasing, Zhong et al. (2017): 0 in a box of a `share` of the images, 1 elsewhere.

    The box lies within the image; its area and aspect are drawn from ERASED_AREAS and, on a log
    scale, from ERASED_ASPECTS. NOTE: the paper draws the aspect uniformly, so that most boxes are
    high, and draws again where a side exceeds the image; here that side is cut.

    Args:
        keys: [b], a key for each image.

    Returns:
        float32 [b, px, px, 1].
    """

    def of_one(key: jax.Array) -> jax.Array:
        erased_key, area_key, aspect_key, corner_key = jax.random.split(key, 4)
        erased = jax.random.bernoulli(erased_key, share)
        area = jax.random.uniform(area_key, minval=ERASED_AREAS[0], maxval=ERASED_AREAS[1])
        low, high = jnp.log(jnp.asarray(ERASED_ASPECTS))
        aspect = jnp.exp(jax.random.uniform(aspect_key, minval=low, maxval=high))
        sides = jnp.sqrt(area * jnp.stack([aspect, 1 / aspect])).clip(max=1.0) * px
        corner = jax.random.uniform(corner_key, (2,)) * (px - sides)
        centres = jnp.arange(px, dtype=jnp.float32)[None] + 0.5
        inside = (corner[:, None] < centres) & (centres < (corner + sides)[:, None])
        box = inside[0][:, None] & inside[1][None]
        return jnp.where(erased & box, 0.0, 1.0)[..., None]

    return jax.vmap(of_one)(keys)
