"""Networks whose ONNX exports are compared with torch: names, builders, inputs. Random weights, fixed seeds."""
import torch
import torch.nn as nn
import torchvision.models as tv


class Block(nn.Module):
    """A transformer block with its attention written out."""

    def __init__(self, width, heads, causal):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, steps, width = x.shape
        split = lambda t: t.view(batch, steps, self.heads, width // self.heads).transpose(1, 2)
        q, k, v = map(split, self.qkv(self.norm1(x)).split(width, dim=2))
        scores = q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5
        if self.causal:
            scores = scores.masked_fill(torch.tril(torch.ones(steps, steps)) == 0, float("-inf"))
        x = x + self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, steps, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Former(nn.Module):
    def __init__(self, vocabulary, width, heads, layers, steps, causal):
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.place = nn.Parameter(torch.randn(1, steps, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads, causal) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens):
        return self.head(self.norm(self.blocks(self.token(tokens) + self.place)))


class Recurrent(nn.Module):
    def __init__(self, kind, bidirectional):
        super().__init__()
        self.token = nn.Embedding(100, 32)
        self.cells = getattr(nn, kind)(32, 48, num_layers=2, bidirectional=bidirectional, batch_first=True)
        self.head = nn.Linear(96 if bidirectional else 48, 10)

    def forward(self, tokens):
        return self.head(self.cells(self.token(tokens))[0])


class UNet(nn.Module):
    def __init__(self):
        super().__init__()

        def pair(i, o):
            convs = [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()]
            return nn.Sequential(*convs, nn.Conv2d(o, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())

        self.down1, self.down2, self.bottom = pair(3, 16), pair(16, 32), pair(32, 64)
        self.up2, self.join2 = nn.ConvTranspose2d(64, 32, 2, 2), pair(64, 32)
        self.up1, self.join1 = nn.Upsample(scale_factor=2, mode="bilinear"), pair(48, 16)
        self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(16, 5, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(self.pool(a))
        y = self.join2(torch.cat([self.up2(self.bottom(self.pool(b))), b], 1))
        return self.head(self.join1(torch.cat([self.up1(y), a], 1)))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Embedding(200, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, activation="gelu", norm_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(64, 200)

    def forward(self, tokens):
        return self.head(self.layers(self.token(tokens)))


def mlp(*widths):
    parts = []
    for i, o in zip(widths, widths[1:]):
        parts += [nn.Linear(i, o), nn.GELU()]
    return nn.Sequential(*parts[:-1])


def small_cnn():
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.Hardswish(),
                         nn.Conv2d(8, 16, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 16, 10))


def image(size=224):
    return (torch.randn(1, 3, size, size),)


def tokens(vocabulary, *shape):
    return (torch.randint(0, vocabulary, shape),)


# Compared forwards.
FORWARD = {
    "mlp": lambda: (mlp(784, 1024, 1024, 10), (torch.randn(4, 784),)),
    "bert_base_s128": lambda: (Former(30522, 768, 12, 12, 128, False), tokens(30522, 1, 128)),
    "gpt_d256": lambda: (Former(1000, 256, 8, 4, 128, True), tokens(1000, 8, 128)),
    "unet": lambda: (UNet(), image(64)),
    "encoder": lambda: (Encoder(), tokens(200, 2, 20)),
    "lstm": lambda: (Recurrent("LSTM", False), tokens(100, 2, 12)),
    "lstm_both_ways": lambda: (Recurrent("LSTM", True), tokens(100, 2, 12)),
    "gru": lambda: (Recurrent("GRU", True), tokens(100, 2, 12)),
    "rnn": lambda: (Recurrent("RNN", False), tokens(100, 2, 12)),
    "resnet18": lambda: (tv.resnet18(), image()),
    "resnet50": lambda: (tv.resnet50(), image()),
    "mobilenet_v2": lambda: (tv.mobilenet_v2(), image()),
    "mobilenet_v3": lambda: (tv.mobilenet_v3_small(), image()),
    "densenet121": lambda: (tv.densenet121(), image()),
    "squeezenet": lambda: (tv.squeezenet1_1(), image()),
    "shufflenet": lambda: (tv.shufflenet_v2_x1_0(), image()),
    "efficientnet_b0": lambda: (tv.efficientnet_b0(), image()),
    "mnasnet": lambda: (tv.mnasnet1_0(), image()),
    "regnet": lambda: (tv.regnet_y_400mf(), image()),
    "convnext_tiny": lambda: (tv.convnext_tiny(), image()),
    "googlenet": lambda: (tv.googlenet(init_weights=False, aux_logits=False), image()),
    "inception_v3": lambda: (tv.inception_v3(init_weights=False), image(299)),
    "alexnet": lambda: (tv.alexnet(), image()),
    "vit_b_16": lambda: (tv.vit_b_16(), image()),
    "swin_t": lambda: (tv.swin_t(), image()),
    "fcn": lambda: (tv.segmentation.fcn_resnet50(weights=None, weights_backbone=None), image(128)),
    "deeplab": lambda: (tv.segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None), image(128)),
    "lraspp": lambda: (tv.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None), image(128)),
}

# Compared with torch's gradients of all parameters too; `True`: exported in training mode.
GRADIENTS = {
    "mlp_grad": (lambda: (mlp(16, 32, 32, 4), (torch.randn(5, 16),)), False),
    "cnn_grad": (lambda: (small_cnn(), (torch.randn(2, 3, 16, 16),)), False),
    "cnn_train_grad": (lambda: (small_cnn(), (torch.randn(4, 3, 16, 16),)), True),
    "unet_grad": (lambda: (UNet(), image(16)), False),
    "former_grad": (lambda: (Former(50, 32, 4, 2, 10, True), tokens(50, 2, 10)), False),
    "encoder_grad": (lambda: (Encoder(), tokens(200, 2, 7)), False),
    "lstm_grad": (lambda: (Recurrent("LSTM", True), tokens(100, 2, 6)), False),
    "gru_grad": (lambda: (Recurrent("GRU", True), tokens(100, 2, 6)), False),
}
