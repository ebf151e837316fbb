"""Draw scenes: objects at random places on a random background, among clutter.

A scene is a function of a seed, the number of a stream, an epoch and an index. All random numbers
come from the generator below, so a scene is the same in every version of NumPy, in every order,
and in any number of threads.
"""

from __future__ import annotations

import math

import numpy as np

from cnnforge_kernels.authoring import cached_njit

MAX_OBJECTS = 6
"""Max number of objects in a scene."""

# Two objects overlap by less than this part of their union.
_MAX_OVERLAP = 0.08
# Alpha above which a pixel belongs to the object, for its box.
_INK = 0.25
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_LOW_BITS = np.uint64(0xFFFF)


@cached_njit(nogil=True)
def _draw(state):
    """Return 64 random bits (SplitMix64)."""
    state[0] += _STEP
    bits = state[0]
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_A
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_B
    return bits ^ (bits >> np.uint64(31))


@cached_njit(nogil=True)
def _begin(state, numbers):
    """Set the state of the generator from some numbers."""
    state[0] = np.uint64(0)
    for number in numbers:
        state[0] ^= np.uint64(number)
        state[0] = _draw(state)


@cached_njit(nogil=True)
def _uniform(state, low, high):
    return low + (high - low) * ((_draw(state) >> np.uint64(11)) * 2.0**-53)


@cached_njit(nogil=True)
def _whole(state, low, high):
    """Return a whole number from `low` to `high - 1`."""
    return low + int(_uniform(state, 0.0, 1.0) * (high - low))


@cached_njit(nogil=True)
def _noise(state):
    """Return a number with mean 0 and variance 1: a sum of four uniform numbers."""
    bits = _draw(state)
    total = (
        int(bits & _LOW_BITS)
        + int((bits >> np.uint64(16)) & _LOW_BITS)
        + int((bits >> np.uint64(32)) & _LOW_BITS)
        + int(bits >> np.uint64(48))
    )
    return (total / 65535.0 - 2.0) * 1.7320508


@cached_njit(nogil=True)
def _sample(image, y, x):
    """Interpolate an image at a position; it is 0 outside."""
    height, width = image.shape
    # Rounding down of a positive number is fast.
    top, left = int(y + 64.0) - 64, int(x + 64.0) - 64
    fy, fx = np.float32(y - top), np.float32(x - left)
    if 0 <= top < height - 1 and 0 <= left < width - 1:
        above = image[top, left] + fx * (np.float32(image[top, left + 1]) - image[top, left])
        below = image[top + 1, left + 1] * fx + image[top + 1, left] * (np.float32(1) - fx)
        return above + fy * (below - above)
    value = np.float32(0)
    for row in range(max(top, 0), min(top + 2, height)):
        for column in range(max(left, 0), min(left + 2, width)):
            weight = (fy if row > top else 1 - fy) * (fx if column > left else 1 - fx)
            value += np.float32(weight * image[row, column])
    return value


@cached_njit(nogil=True)
def _map_sprite(image, height, width, angle, out):
    """Rotate an image, and resize it to (height, width): into `out`, in its own units."""
    side_y, side_x = image.shape
    cosine, sine = math.cos(angle), math.sin(angle)
    step_y, step_x = side_y / height, side_x / width
    # An image that is clearly reduced is sampled at four places of each pixel.
    parts = 2 if step_y > 1.3 or step_x > 1.3 else 1
    for i in range(height):
        for j in range(width):
            value = 0.0
            for a in range(parts):
                y = (i + (a + 0.5) / parts) * step_y - side_y / 2
                for b in range(parts):
                    x = (j + (b + 0.5) / parts) * step_x - side_x / 2
                    row = cosine * y - sine * x + side_y / 2 - 0.5
                    value += _sample(image, row, sine * y + cosine * x + side_x / 2 - 0.5)
            out[i, j] = value / (parts * parts)


@cached_njit(nogil=True)
def _box_of(ink, height, width, box):
    """Write first and last row and column of what is to be seen: top, left, bottom, right."""
    box[0], box[1], box[2], box[3] = height, width, 0, 0
    for i in range(height):
        for j in range(width):
            if ink[i, j] > _INK * 255:
                box[0], box[1] = min(box[0], i), min(box[1], j)
                box[2], box[3] = max(box[2], i + 1), max(box[3], j + 1)
    return box[2] > box[0]


@cached_njit(nogil=True)
def _overlap(first, second):
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = (first[2] - first[0]) * (first[3] - first[1])
    areas += (second[2] - second[0]) * (second[3] - second[1])
    return width * height / (areas - width * height)


@cached_njit(nogil=True)
def _background(state, canvas):
    """Draw a brightness that changes evenly, with noise."""
    height, width, channels = canvas.shape
    base, noise = _uniform(state, 20.0, 110.0), _uniform(state, 2.0, 14.0)
    down, right = _uniform(state, -50.0, 50.0), _uniform(state, -50.0, 50.0)
    for i in range(height):
        for j in range(width):
            ramp = down * (i / height - 0.5) + right * (j / width - 0.5)
            for c in range(channels):
                canvas[i, j, c] = base + ramp + noise * _noise(state)


@cached_njit(nogil=True)
def _smooth(x):
    return x * x * (3 - 2 * x)


@cached_njit(nogil=True)
def _clouds(state, canvas):
    """Draw soft spots of several sizes in colours that fit each other, with noise."""
    height, width, channels = canvas.shape
    for c in range(channels):
        base = _uniform(state, 50.0, 200.0)
        for i in range(height):
            for j in range(width):
                canvas[i, j, c] = base
    noise = _uniform(state, 2.0, 10.0)
    for octave in range(4):
        cell = 64 >> octave
        rows, columns = height // cell + 2, width // cell + 2
        gray = octave > 0
        grid = np.empty((rows, columns, channels), np.float32)
        size = _uniform(state, 30.0, 70.0) / (1 + octave)
        for i in range(rows):
            for j in range(columns):
                value = _uniform(state, -size, size)
                for c in range(channels):
                    grid[i, j, c] = value if gray else _uniform(state, -size, size)
        line = np.empty((columns, channels), np.float32)
        for i in range(height):
            fy = np.float32(_smooth((i % cell) / cell))
            row = i // cell
            for column in range(columns):
                for c in range(channels):
                    above, below = grid[row, column, c], grid[row + 1, column, c]
                    line[column, c] = above + fy * (below - above)
            for j in range(width):
                fx = np.float32(_smooth((j % cell) / cell))
                column = j // cell
                for c in range(channels):
                    left, right = line[column, c], line[column + 1, c]
                    canvas[i, j, c] += left + fx * (right - left)
    for i in range(height):
        for j in range(width):
            value = noise * _noise(state)
            for c in range(channels):
                canvas[i, j, c] += value


@cached_njit(nogil=True)
def _clutter(state, canvas, alpha, photo):
    """Draw a bar, or a piece of an object, or an ellipse among clouds."""
    height, width, channels = canvas.shape
    color = np.empty(channels, np.float32)
    gray = _uniform(state, 90.0, 255.0)
    for c in range(channels):
        color[c] = _uniform(state, 20.0, 235.0) if photo else gray
    if _draw(state) & np.uint64(1):
        thick, long = _whole(state, 1, 4), _whole(state, 8, 50)
        if photo:
            thick *= 3
        if _draw(state) & np.uint64(1):
            thick, long = long, thick
        thick, long = min(thick, height - 1), min(long, width - 1)
        top, left = _whole(state, 0, height - thick), _whole(state, 0, width - long)
        for i in range(top, top + thick):
            for j in range(left, left + long):
                for c in range(channels):
                    canvas[i, j, c] = color[c]
    elif photo:
        tall, wide = _uniform(state, 4.0, 25.0), _uniform(state, 4.0, 25.0)
        y, x = _uniform(state, 0.0, height), _uniform(state, 0.0, width)
        for i in range(height):
            for j in range(width):
                if ((i - y) / tall) ** 2 + ((j - x) / wide) ** 2 < 1:
                    for c in range(channels):
                        canvas[i, j, c] = color[c]
    else:
        side = _whole(state, 5, 11)
        y, x = _whole(state, 6, 22 - side // 2), _whole(state, 6, 22 - side // 2)
        piece = alpha[_whole(state, 0, len(alpha))]
        top, left = _whole(state, 0, height - side), _whole(state, 0, width - side)
        for i in range(min(side, piece.shape[0] - y)):
            for j in range(min(side, piece.shape[1] - x)):
                ink = piece[y + i, x + j] / 255.0
                for c in range(channels):
                    canvas[top + i, left + j, c] += (color[c] - canvas[top + i, left + j, c]) * ink


@cached_njit(nogil=True)
def _paste(canvas, ink, box, top, left, sprite, height, width, angle, gain):
    """Draw an object: its own colours, or one brightness if the sprite has none."""
    channels = canvas.shape[2]
    has_colors = sprite.shape[2] > 0
    cosine, sine = math.cos(angle), math.sin(angle)
    step_y, step_x = sprite.shape[0] / height, sprite.shape[1] / width
    for i in range(box[0], box[2]):
        y = (i + 0.5) * step_y - sprite.shape[0] / 2
        for j in range(box[1], box[3]):
            if ink[i, j] == 0:
                continue
            x = (j + 0.5) * step_x - sprite.shape[1] / 2
            row = cosine * y - sine * x + sprite.shape[0] / 2 - 0.5
            column = sine * y + cosine * x + sprite.shape[1] / 2 - 0.5
            for c in range(channels):
                color = gain
                if has_colors:
                    color *= _sample(sprite[:, :, c], row, column) / 255.0
                old = canvas[top + i - box[0], left + j - box[1], c]
                canvas[top + i - box[0], left + j - box[1], c] += (color - old) * (
                    ink[i, j] / 255.0
                )


@cached_njit(nogil=True)
def make_scenes(numbers, rows, alpha, colors, classes, sides, photo, pixels, boxes, labels, counts):
    """Make scenes: their boxes, and their pixels if there is room for these.

    Args:
        numbers: (3,) int64: seed, stream and epoch.
        rows: (N,) int64: the indices of the scenes.
        alpha: (M, S, S) uint8: opacity of the pictures of the objects.
        colors: (M, S, S, C) uint8: their colours; (M, S, S, 0) if each has one brightness.
        classes: (M,) int32: index of the class of each picture.
        sides: (4,) int64: min and max of the height of an object, and height and width of a scene.
        photo: Whether the background is made of clouds in colour.
        pixels: (N, H, W, C) uint8 for the scenes; (0, H, W, C) to make the boxes only.
        boxes: (N, MAX_OBJECTS, 4) float64 for the boxes: `x1 y1 x2 y2` in pixels.
        labels: (N, MAX_OBJECTS) int32 for the classes.
        counts: (N,) int64 for the number of objects.
    """
    low, high, full_height, full_width = sides
    with_pixels = len(pixels) > 0
    shape = (full_height, full_width, pixels.shape[3])
    canvas = np.empty(shape if with_pixels else (1, 1, 1), np.float32)
    ink = np.empty((high + 1, 2 * high + 2), np.float32)
    state, place = np.empty(1, np.uint64), np.empty(4, np.int64)
    key = np.empty(5, np.int64)
    key[:3] = numbers
    for n in range(len(rows)):
        key[3] = rows[n]
        if with_pixels:
            # The background has random numbers of its own, so that the boxes do not depend on it.
            key[4] = 1
            _begin(state, key)
            if photo:
                _clouds(state, canvas)
            else:
                _background(state, canvas)
            for _ in range(_whole(state, 2, 7)):
                _clutter(state, canvas, alpha, photo)
        key[4] = 0
        _begin(state, key)
        wanted = _whole(state, 1, MAX_OBJECTS + 1)
        count = 0
        for _ in range(20 * wanted):
            if count == wanted:
                break
            pick = _whole(state, 0, len(alpha))
            height = _whole(state, low, high + 1)
            width = max(low // 2, int(height * _uniform(state, 0.75, 1.25)))
            angle = _uniform(state, -15.0, 15.0) * math.pi / 180
            gain = _uniform(state, 170.0, 255.0)
            at_y, at_x = _uniform(state, 0.0, 1.0), _uniform(state, 0.0, 1.0)
            _map_sprite(alpha[pick], height, width, angle, ink)
            if not _box_of(ink, height, width, place):
                continue
            tall, wide = place[2] - place[0], place[3] - place[1]
            if tall + 2 > full_height or wide + 2 > full_width:
                continue
            top = 1 + int(at_y * (full_height - tall - 1))
            left = 1 + int(at_x * (full_width - wide - 1))
            box = boxes[n, count]
            box[0], box[1], box[2], box[3] = left, top, left + wide, top + tall
            is_free = True
            for other in range(count):
                if _overlap(box, boxes[n, other]) >= _MAX_OVERLAP:
                    is_free = False
            if not is_free:
                continue
            labels[n, count] = classes[pick]
            count += 1
            if with_pixels:
                _paste(canvas, ink, place, top, left, colors[pick], height, width, angle, gain)
        counts[n] = count
        if with_pixels:
            for i in range(full_height):
                for j in range(full_width):
                    for c in range(shape[2]):
                        pixels[n, i, j, c] = np.uint8(min(max(canvas[i, j, c], 0.0), 255.0))
