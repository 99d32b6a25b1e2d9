"""Re-ID networks in PyTorch as their projects publish them, with the same names of modules: what the converter reads.

Written from the published code that `teacher.residual_families` lists. Narrow: widths come from the file. `forward`
gives what each project compares at test time, before it is scaled to unit length.
"""

import torch
from torch import nn

WIDTHS, DEPTHS, STEM = (8, 8, 12, 16), (1, 1, 2, 1), 8


class IBN(nn.Module):
    def __init__(self, planes):
        super().__init__()
        self.half = planes // 2
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(planes - self.half)

    def forward(self, x):
        first, second = torch.split(x, [self.half, x.shape[1] - self.half], 1)
        return torch.cat((self.IN(first), self.BN(second)), 1)


class Bottleneck(nn.Module):
    def __init__(self, cin, width, stride=1, ibn=False, project=False):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, width, 1, bias=False), IBN(width) if ibn else nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, width * 4, 1, bias=False), nn.BatchNorm2d(width * 4)
        if project:
            shortcut = nn.Conv2d(cin, width * 4, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width * 4))

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(y))
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


def stage(cin, width, depth, stride, ibn=False):
    first = Bottleneck(cin, width, stride, ibn, project=True)
    return nn.Sequential(first, *(Bottleneck(width * 4, width, ibn=ibn) for _ in range(depth - 1)))


def stages(ibn=False, depths=DEPTHS):
    """Stem and the four stages; IBN-a leaves the last stage alone."""
    cins = (STEM, *(width * 4 for width in WIDTHS))
    strides = (1, 2, 2, 1)
    stem = [nn.Conv2d(3, STEM, 7, 2, 3, bias=False), nn.BatchNorm2d(STEM)]
    return [*stem, *(stage(cins[i], WIDTHS[i], depths[i], strides[i], ibn and i < 3) for i in range(4))]


class GeM(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.ones(1) * 3)

    def forward(self, x):
        x = x.clamp(min=1e-6).pow(self.p)
        return nn.functional.adaptive_avg_pool2d(x, 1).pow(1.0 / self.p)


class HHCL(nn.Module):
    def __init__(self, pooling="avg", num_features=0, ibn=False, num_classes=0):
        super().__init__()
        conv1, bn1, *layers = stages(ibn)
        self.base = nn.Sequential(conv1, bn1, nn.ReLU(), nn.MaxPool2d(3, 2, 1), *layers)
        self.gap = {"avg": nn.AdaptiveAvgPool2d(1), "max": nn.AdaptiveMaxPool2d(1), "gem": GeM()}[pooling]
        self.has_embedding = num_features > 0
        if self.has_embedding:
            self.feat = nn.Linear(WIDTHS[3] * 4, num_features)
        self.feat_bn = nn.BatchNorm1d(num_features or WIDTHS[3] * 4)
        self.feat_bn.bias.requires_grad_(False)
        if num_classes:
            self.classifier = nn.Linear(num_features or WIDTHS[3] * 4, num_classes, bias=False)

    def forward(self, x):
        x = self.gap(self.base(x)).flatten(1)
        return self.feat_bn(self.feat(x) if self.has_embedding else x)


class PPLR(nn.Module):
    def __init__(self, num_parts=3, num_classes=5):
        super().__init__()
        conv1, bn1, *layers = stages()
        self.base = nn.Sequential(conv1, bn1, nn.ReLU(), nn.MaxPool2d(3, 2, 1), *layers)
        self.gap = nn.AdaptiveAvgPool2d(1)
        for name in ("", *map(str, range(num_parts))):
            setattr(self, f"bnneck{name}", nn.BatchNorm1d(WIDTHS[3] * 4))
            setattr(self, f"classifier{name}", nn.Linear(WIDTHS[3] * 4, num_classes, bias=False))

    def forward(self, x):
        return self.bnneck(self.gap(self.base(x)).flatten(1))


class NonLocal(nn.Module):
    def __init__(self, channels, inner=1):
        super().__init__()
        self.g, self.theta, self.phi = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x):
        g, theta, phi = (part(x).flatten(2) for part in (self.g, self.theta, self.phi))
        f = theta.permute(0, 2, 1) @ phi
        y = (f / f.shape[-1]) @ g.permute(0, 2, 1)
        return self.W(y.permute(0, 2, 1).reshape(len(x), -1, *x.shape[2:])) + x


class BaselineResNet(nn.Module):
    """Without IBN-a there is no ReLU after bn1; with it there is, and a classifier of ImageNet that nothing uses."""

    def __init__(self, ibn, non_layers, inner, depths):
        super().__init__()
        self.conv1, self.bn1, self.layer1, self.layer2, self.layer3, self.layer4 = stages(ibn, depths)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        if ibn:
            self.fc = nn.Linear(WIDTHS[3] * 4, 7)
        for i, count in enumerate(non_layers):
            setattr(self, f"NL_{i + 1}", nn.ModuleList([NonLocal(WIDTHS[i] * 4, inner) for _ in range(count)]))
        self.ibn, self.non_layers = ibn, non_layers

    def forward(self, x):
        x = self.bn1(self.conv1(x))
        x = self.maxpool(x.relu() if self.ibn else x)
        for i, count in enumerate(self.non_layers):
            layer, blocks = getattr(self, f"layer{i + 1}"), getattr(self, f"NL_{i + 1}")
            places = sorted(len(layer) - (k + 1) for k in range(count))
            for j, block in enumerate(layer):
                x = block(x)
                if j in places:
                    x = blocks[places.index(j)](x)
        return x


class Baseline(nn.Module):
    """The strong baseline; with non-local blocks and GeM, AGW."""

    def __init__(self, ibn=False, non_layers=(0, 0, 0, 0), gem=False, inner=1, depths=DEPTHS):
        super().__init__()
        self.base = BaselineResNet(ibn, non_layers, inner, depths)
        self.global_pool = GeM() if gem else nn.AdaptiveAvgPool2d(1)
        self.bottleneck = nn.BatchNorm1d(WIDTHS[3] * 4)
        self.classifier = nn.Linear(WIDTHS[3] * 4, 6, bias=False)

    def forward(self, x):
        return self.bottleneck(self.global_pool(self.base(x)).flatten(1))


class MGN(nn.Module):
    """The published kernels are those of crops of 384 x 128; `size` is the crop, for kernels of another."""

    def __init__(self, pool=nn.MaxPool2d, feats=6, size=(384, 128)):
        super().__init__()
        conv1, bn1, layer1, layer2, layer3, _ = stages()
        self.backone = nn.Sequential(conv1, bn1, nn.ReLU(), nn.MaxPool2d(3, 2, 1), layer1, layer2, layer3[0])
        wide = WIDTHS[2] * 4
        for b, stride in enumerate((2, 1, 1)):
            rest = nn.Sequential(*(Bottleneck(wide, WIDTHS[2]) for _ in range(DEPTHS[2] - 1)))
            setattr(self, f"p{b + 1}", nn.Sequential(rest, stage(wide, WIDTHS[3], DEPTHS[3], stride)))
        (rows, columns), (half_rows, half_columns) = ([-(-side // s) for side in size] for s in (16, 32))
        self.maxpool_zg_p1 = pool((half_rows, half_columns))
        self.maxpool_zg_p2, self.maxpool_zg_p3 = pool((rows, columns)), pool((rows, columns))
        self.maxpool_zp2, self.maxpool_zp3 = pool((rows // 2, columns)), pool((rows // 3, columns))
        for i in range(8):
            reduction = nn.Sequential(nn.Conv2d(WIDTHS[3] * 4, feats, 1, bias=False), nn.BatchNorm2d(feats), nn.ReLU())
            setattr(self, f"reduction_{i}", reduction)
        for name in ("2048_0", "2048_1", "2048_2", "256_1_0", "256_1_1", "256_2_0", "256_2_1", "256_2_2"):
            setattr(self, f"fc_id_{name}", nn.Linear(feats, 4))

    def forward(self, x):
        x = self.backone(x)
        p1, p2, p3 = self.p1(x), self.p2(x), self.p3(x)
        zp2, zp3 = self.maxpool_zp2(p2), self.maxpool_zp3(p3)
        pooled = [self.maxpool_zg_p1(p1), self.maxpool_zg_p2(p2), self.maxpool_zg_p3(p3), zp2[:, :, 0:1],
                  zp2[:, :, 1:2], zp3[:, :, 0:1], zp3[:, :, 1:2], zp3[:, :, 2:3]]  # fmt: skip
        return torch.cat([getattr(self, f"reduction_{i}")(z) for i, z in enumerate(pooled)], 1).flatten(1)


def randomised(model, seed=0):
    """The model in eval mode with random weights, statistics, norms and exponents, none of them trivial."""
    torch.manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            # The products of non-local blocks are cubic in their input: several in a row would overflow.
            tensor.normal_(std=(0.2 if ".NL_" in name else 2**0.5) / tensor[0].numel() ** 0.5)
        elif name.endswith((".running_var", ".weight")):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(".p"):
            tensor.fill_(2.6)
        elif tensor.is_floating_point():
            tensor.uniform_(-0.5, 0.5)
        else:
            tensor.fill_(17)  # num_batches_tracked
    return model.eval()


def unit(model, crops):
    """Unit-length embeddings of crops uint8 [B,h,w,3], normalised as all of these projects normalise."""
    x = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        return nn.functional.normalize(model((x - mean) / std)).numpy()
