"""Would the tests notice? Break a script in one place at a time, and see whether its tests fail.

    python tests/mutations.py algos/trpo.py

Every mutation is an old text that occurs exactly once in the file, the text that replaces it, and what is wrong then.
One that survives shows a hole in the tests. Works on copies: the project itself is not touched.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

ROOT = Path(__file__).resolve().parent.parent

MUTATIONS: dict[str, list[tuple[str, str, str]]] = {
    "gen/realnvp.py": [
        (
            "self.join(kept, changed * s.exp() + t), s.flatten(1).sum(1)",
            "self.join(kept, changed * s.exp() + t), s.flatten(1).mean(1)",
            "the log-determinant is the sum of all log-scales",
        ),
        (
            "changed if s is None else changed * (-s).exp()",
            "changed if s is None else changed * s.exp()",
            "the inverse divides by the scale",
        ),
        (
            "fields = self.fields(kept, not self.flipped)",
            "fields = self.fields(kept, self.flipped)",
            "a checkerboard changes the fields that its network does not see",
        ),
        (
            "return (b, a) if self.flipped else (a, b)",
            "return a, b",
            "halves take turns",
        ),
        (
            "math.log(1 - 2 * self.alpha) - log_p - log_q",
            "-log_p - log_q",
            "the logit's argument is scaled, too",
        ),
        (
            "return torch.cat([upper_left, lower_right], 1), torch.cat([upper_right, lower_left], 1)",
            "return torch.cat([upper_left, upper_right], 1), torch.cat([lower_right, lower_left], 1)",
            "what goes on are the pixels of one diagonal",
        ),
        (
            "self.log_scale.sum().expand(len(x))",
            "self.log_scale.mean().expand(len(x))",
            "the factors of all latents multiply",
        ),
        (
            "return -(F.softplus(z) + F.softplus(-z)).sum(1)",
            "return -F.softplus(z).sum(1)",
            "a logistic density falls on both sides",
        ),
        (
            "return -(model.log_prior(z) + log_det)",
            "return -(model.log_prior(z) - log_det)",
            "the determinant multiplies the density",
        ),
        (
            "return nll + size * math.log(256)",
            "return nll + size * math.log(255)",
            "a pixel takes 1/256 of the room",
        ),
        (
            "math.log(len(means) * 2 * math.pi * noise**2)",
            "math.log(len(means) * (2 * math.pi) ** 0.5 * noise)",
            "points have two dimensions",
        ),
        (
            "        return sum_over_processes(grad.clone())",
            "        return grad.clone()",
            "a process's part of a batch's mean is in the loss of every process",
        ),
        (
            "    model.eval()\n    rng, total",
            "    rng, total",
            "scores take running averages, not those of the batch",
        ),
    ],
    "gen/colorizer.py": [
        (
            "pictures.shape[-1] * 9 // 256 | 1)",
            "9)",
            "lines are as fine on small pictures as on large ones",
        ),
        (
            "(pixel < corners.unsqueeze(3) + hole)",
            "(pixel <= corners.unsqueeze(3) + hole)",
            "squares are as large as they are said to be",
        ),
        (
            "** NUM_HOLES).mean().item()",
            "* (1 - NUM_HOLES / 100)).mean().item()",
            "a pixel is left when it lies in none of the squares",
        ),
        (
            "torch.arange(box, device=x.device) - box // 2",
            "torch.arange(box, device=x.device)",
            "a box lies around its pixel, not to the right of it",
        ),
        (
            "blur(left * x + (1 - left))",
            "blur(0.3 * x + 0.7)",
            "the bleaching is computed, not the post's 0.3",
        ),
        (
            "[None, toward_real]",
            "[None, 0 * toward_real]",
            "the generator learns from the discriminator",
        ),
        (
            "F.softplus(-real) + F.softplus(fake)",
            "F.softplus(real) + F.softplus(-fake)",
            "the discriminator calls real pictures real",
        ),
        (
            "100 * error / args.batch_size, y]",
            "error / args.batch_size, y]",
            "the absolute error counts a hundredfold",
        ),
        (
            "(1, 2, 3)).sum() / 2  # pix2pix",
            "(1, 2, 3)).sum()  # pix2pix",
            "the discriminator's loss is halved",
        ),
        (
            "500 * (f[:, 0] - f[:, 1])",
            "500 * (f[:, 1] - f[:, 0])",
            "a of Lab is red, not green, where it is positive",
        ),
        (
            "far = distance_to_nearest(test, train) > NEAR",
            "far = distance_to_nearest(test, train) >= 0",
            "test pictures with a near twin do not count",
        ),
        (
            "        sum_gradients(networks[name])\n",
            "",
            "the processes add up their gradients",
        ),
        (
            "        if strokes.size != picture.size:",
            "        if False:",
            "a hint of another size is refused",
        ),
        (
            'for layer in editor["layers"]:',
            "for layer in []:",
            "the page uses the strokes",
        ),
    ],
    "gen/gan.py": [
        (
            "F.softplus(-on_real) + F.softplus(on_fake)",
            "F.softplus(-on_real) + F.softplus(-on_fake)",
            "the discriminator calls generated pictures generated",
        ),
        (
            "return F.softplus(-on_fake) +",
            "return -F.softplus(on_fake) +",
            "the generator's loss does not saturate while the discriminator is sure",
        ),
        (
            "    discriminator.requires_grad_(True)\n",
            "",
            "the discriminator learns again after the generator's turn",
        ),
        (
            "torch.cdist(ours, everyone, p=1)",
            "torch.cdist(ours, everyone, p=2)",
            "the distance in each direction is a sum of absolute differences",
        ),
        (
            "cov_a.trace() + cov_b.trace() - 2 * both",
            "cov_a.trace() + cov_b.trace() - both",
            "the Frechet distance of a Gaussian to itself is 0",
        ),
        (
            "values.clamp(min=0).sqrt() @ vectors.T",
            "values.clamp(min=0) @ vectors.T",
            "what is multiplied from both sides is the root of the covariance",
        ),
        (
            "torch.rand(num, args.latent_dim, generator=rng, device=rng.device) * 2 - 1",
            "torch.rand(num, args.latent_dim, generator=rng, device=rng.device)",
            "the noise reaches from -1 to 1",
        ),
        (
            "fill_diagonal_(math.inf)",
            "fill_diagonal_(0)",
            "a picture is not its own neighbour",
        ),
        (
            "count = num_processes() * x.numel() // x.shape[1]",
            "count = x.numel() // x.shape[1]",
            "batch statistics are those of all processes",
        ),
        (
            "    sum_gradients(discriminator)\n",
            "",
            "the processes add up the discriminator's gradients",
        ),
        (
            "if collapsed and varied:",
            "if collapsed and not varied:",
            "a collapse is said when it happens",
        ),
        (
            "counts.argmax(1)[found] != test_labels",
            "found != test_labels",
            "a code stands for the label that most of its training pictures have",
        ),
    ],
    "gen/draw.py": [
        (
            "0.5 * (mu**2 + (2 * logsigma).exp() - 1) - logsigma",
            "0.5 * (mu**2 + (2 * logsigma).exp()) - logsigma",
            "the KL divergence is 0 where a code tells nothing",
        ),
        (
            "torch.stack(drawing.kl).sum(0)",
            "torch.stack(drawing.kl).mean(0)",
            "the KL divergences of all steps are summed",
        ),
        (
            "logsigma.exp() * noise[:, step]",
            "logsigma.exp() * noise[:, 0]",
            "every step has noise of its own",
        ),
        (
            "- num_filters / 2 - 0.5",
            "- num_filters / 2",
            "the filters lie evenly around the centre",
        ),
        (
            "F_x, F_y = exponents",
            "F_y, F_x = exponents",
            "the first number moves the grid across, the second down",
        ),
        (
            "(-0.5 / variance).view",
            "(-1.0 / variance).view",
            "a Gaussian's exponent has a half",
        ),
        (
            "patch / grid.intensity.view(-1, 1, 1, 1)",
            "patch * grid.intensity.view(-1, 1, 1, 1)",
            "what is written is divided by the intensity that multiplies what is read",
        ),
        (
            "error = x - canvas.sigmoid()  # (3)",
            "error = x - canvas  # (3)",
            "the error is that of the picture, not of its logits",
        ),
        (
            "torch.ops.aten.tanh_backward(d_cell * take, candidate)",
            "torch.ops.aten.tanh_backward(d_cell * keep, candidate)",
            "the candidate's gradient passes the gate that took it",
        ),
        (
            "d_seen, d_cell * keep, d_weight",
            "d_seen, d_cell, d_weight",
            "what is forgotten gets no gradient",
        ),
        (
            "2 * math.log(stride / 2), math.log(share)",
            "0.0, math.log(share)",
            "the first filters touch",
        ),
        (
            "** 2).flatten(1).sum(1) / (2 * args.noise_std**2)",
            "** 2).flatten(1).mean(1) / (2 * args.noise_std**2)",
            "the squared error is a sum over pixels",
        ),
        (
            "noise[share], args, loss_function",
            "noise[: share.stop - share.start], args, loss_function",
            "every process takes its own share of the noise",
        ),
        (
            "generator(device, args.seed, NOISE, row_number)",
            "generator(device, args.seed, NOISE)",
            "every row has noise of its own",
        ),
    ],
    "gen/pixelcnn.py": [
        (
            "features.tanh() * gates.sigmoid()",
            "features.tanh() * gates.tanh()",
            "a gate lets through between nothing and all",
        ),
        (
            'of_input < of_output.unsqueeze(1) if kind == "A"',
            'of_input <= of_output.unsqueeze(1) if kind == "A"',
            "the first layer does not see the colour it predicts",
        ),
        (
            "torch.arange(outputs) % size * colours // size",
            "torch.arange(outputs) * colours // outputs",
            "features and gates are divided into colours apart",
        ),
        (
            "F.conv2d(x, self.weight * self.mask, self.bias)",
            "F.conv2d(x, self.weight, self.bias)",
            "the pixel's own colours are masked",
        ),
        (
            "F.pad(x, (0, 0, 1, -1)), x  #",
            "x, x  #",
            "the vertical stack sees the rows above only",
        ),
        (
            "F.pad(v, (0, 0, self.reach, 0))",
            "F.pad(v, (0, 0, self.reach - 1, 1))",
            "the vertical stack looks up, not down",
        ),
        (
            "h[..., self.reach :] + found",
            "h[..., : -self.reach] + found",
            "the residual is the pixel's own",
        ),
        (
            "nats.view(len(pictures), -1).sum(1)",
            "nats.view(len(pictures), -1).mean(1)",
            "the likelihood is a sum over pixels and colours",
        ),
        (
            "values = pictures.permute(0, 2, 3, 1)",
            "values = pictures.permute(0, 3, 2, 1)",
            "values are those of the predicted pixels",
        ),
        (
            "known[:, :, i - 1]",
            "known[:, :, i]",
            "when a row is drawn, the one above is what is known",
        ),
        (
            "(logits - (-noise.log()).log()).argmax(1)",
            "logits.argmax(1)",
            "pixels are drawn, not chosen",
        ),
        (
            "return nats / (math.prod(shape) * math.log(2))",
            "return nats / math.prod(shape)",
            "bits, not nats",
        ),
        (
            "args.learning_rate * (1 - step / total_steps)",
            "args.learning_rate",
            "the step size falls",
        ),
        (
            "update(model, optimizer, batch[share], args",
            "update(model, optimizer, batch, args",
            "every process takes its share",
        ),
    ],
    "gen/deconvnet.py": [
        (
            "cells = cells * F.one_hot(switches, 4)",
            "cells = cells * F.one_hot(3 - switches, 4)",
            "a number goes back into the cell that it came from",
        ),
        (
            "return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 2, 4, 3, 5).flatten(4)",
            "return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 2, 4, 5, 3).flatten(4)",
            "cells are counted row by row, as they are put back",
        ),
        (
            "x = F.conv_transpose2d(rectify(unpool(x, cells)), conv.weight, padding=2)",
            "x = F.conv_transpose2d(unpool(x, cells), conv.weight, padding=2)",
            "what goes back is rectified",
        ),
        (
            "x = F.conv_transpose2d(rectify(unpool(x, cells)), conv.weight, padding=2)",
            "x = F.conv2d(rectify(unpool(x, cells)), conv.weight.transpose(0, 1), padding=2)",
            "filters are transposed, which turns them around, too",
        ),
        (
            "x, switches = squares(F.relu(conv(x))).max(-1)",
            "x, switches = squares(conv(x)).max(-1)",
            "features are rectified on the way forwards",
        ),
        (
            'switches = [cells.expand(len(features), *cells.shape[1:]) if how == "switches" else None for',
            "switches = [cells.expand(len(features), *cells.shape[1:]) for",
            "--unpool copy fills the square",
        ),
        (
            "return most.topk(min(num, len(pictures)), dim=0).indices.T",
            "return most.topk(min(num, len(pictures)), dim=0, largest=False).indices.T",
            "the strongest pictures are those with the largest activation",
        ),
        (
            "values = values[values.amax(1) > 0]",
            "values = values",
            "dead features are no uncorrelated ones",
        ),
        (
            "return ((r.sum() - r.diagonal().sum()) / (len(r) * (len(r) - 1))).item()",
            "return r.mean().item()",
            "a feature's correlation with itself does not count",
        ),
        (
            "x = F.relu(self.hidden(x.flatten(1)))\n        return self.head(x if kept is None else x * kept).float()",
            "x = F.relu(self.hidden(x.flatten(1)))\n        return self.head(x).float()",
            "dropout drops",
        ),
        (
            "return kept / (1 - args.dropout)",
            "return kept.float()",
            "dropout keeps the mean",
        ),
        (
            "peak = features == features.amax((1, 2, 3), keepdim=True)",
            "peak = features != features.amax((1, 2, 3), keepdim=True)",
            "the strongest activation is shown, and nothing else",
        ),
        (
            "* (1 - args.anneal_lr * step / total_steps)",
            "* (1 - step / total_steps)",
            "--no-anneal-lr keeps the step size",
        ),
        (
            "turned = [picture.rot90(i % 4, (1, 2))",
            "turned = [picture.rot90(1, (1, 2))",
            "pictures are turned by what their label says",
        ),
    ],
    "gen/revnet.py": [
        (
            "dy1 = dy1 + dg[0]  # y1",
            "dy1 = dy1 + 0 * dg[0]  # y1",
            "y1 counts by way of y2, too",
        ),
        (
            "return ((y1 - f).detach(), x2.detach()), (dy1, dy2 + df[0]), [*df[1:], *dg[1:]]",
            "return ((y1 - f).detach(), x2.detach()), (dy1, dy2 + df[0]), [*dg[1:], *df[1:]]",
            "every gradient goes to its own parameter",
        ),
        (
            "g = block.g(y1, False)  # the",
            "g = block.g(y1, True)  # the",
            "running averages move once in an update",
        ),
        (
            "y = block(*x, False)",
            "y = block(*x, True)",
            "running averages move once where a block cannot be undone, too",
        ),
        (
            "return y1 - self.f(x2, False), x2",
            "return y1 - self.f(y2, False), x2",
            "F gets the half that was computed back",
        ),
        (
            "self.reversible = stride == 1 and before == after",
            "self.reversible = True",
            "a block that halves the picture cannot be undone",
        ),
        (
            "ctx.save_for_backward(y, None if stage.blocks[0].reversible else x)",
            "ctx.save_for_backward(y, x, *[y.clone() for _ in stage.blocks])",
            "what is kept does not grow with depth",
        ),
        (
            "return sum_over_processes(grad.clone())",
            "return grad",
            "batch statistics pass the gradients of all processes on",
        ),
        (
            "self.running_var.lerp_(var * count / (count - 1), 0.1)",
            "self.running_var.lerp_(var, 0.1)",
            "the running variance is the unbiased one, with two processes as with one",
        ),
        (
            "columns = torch.where(mirrored, columns.flip(1), columns) + shifts[1]",
            "columns = columns.flip(1) + shifts[1]",
            "half of the pictures are mirrored",
        ),
        (
            '[p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0}',
            '[p for p in model.parameters() if p.dim() == 1], "weight_decay": args.weight_decay}',
            "batch normalization does not decay",
        ),
        (
            "model.eval()\n    sums = torch.zeros(2",
            "sums = torch.zeros(2",
            "test pictures are normalized by the running averages",
        ),
        (
            "update_averages)).to(self.mean.dtype)",
            "update_averages))",
            "the sums stay in float32 when the convolutions are in bfloat16",
        ),
    ],
    "gen/chat_rnn.py": [
        (
            "x if masks is None else x * masks[-1], states",
            "x, states",
            "dropout is behind the top layer, too",
        ),
        (
            "where = np.flatnonzero(np.arange(longest)[:, None] < targets)",
            "where = np.arange(longest * len(rows))",
            "padding costs nothing",
        ),
        (
            'classes = np.searchsorted(bounds[1:-1], wanted, side="right")',
            'classes = np.searchsorted(bounds[1:-1], wanted, side="left")',
            "the first word of a class belongs to it",
        ),
        (
            "head[:, self.bounds[1] + i, None] + F.linear",
            "F.linear",
            "a word of a class is as likely as its class times its share of it",
        ),
        (
            "self.output.weight = self.embedding.weight",
            "pass",
            "--tied-weights shares one matrix",
        ),
        (
            "np.minimum([len(message) + 1 for message in messages], MAX_WORDS)",
            "np.minimum([len(message) for message in messages], MAX_WORDS)",
            "the end of a message is predicted",
        ),
        (
            "number_words(messages[:split], args)",
            "number_words(messages, args)",
            "the vocabulary knows nothing of the held-out messages",
        ),
        (
            "(nats / targets_per_batch).backward()",
            "(nats / len(batch.targets)).backward()",
            "a word counts as much in a short message as in a long one",
        ),
        (
            "nn.utils.clip_grad_norm_(model.parameters(), args.clip)",
            "nn.utils.clip_grad_norm_(model.parameters(), 2 * args.clip)",
            "gradients are clipped at --clip",
        ),
        (
            "logits[:, RARE] = -math.inf",
            "pass",
            "the rare word is not printed",
        ),
        (
            "(logits / temperature).softmax(1)",
            "logits.softmax(1)",
            "--temperature counts",
        ),
        (
            "word = choice.masked_fill(ended, END).unsqueeze(0)",
            "word = choice.unsqueeze(0)",
            "nothing comes after the end",
        ),
        (
            "nats[position] -= share * probability * math.log(probability)",
            "nats[position] -= share * math.log(probability)",
            "entropy weighs surprises by their probability",
        ),
        (
            "+ chat.nats_of_spelling) / chat.characters",
            ") / chat.characters",
            "bits per character pay for the letters of rare words",
        ),
        (
            "*lines, rest = (rest + data).split",
            "*lines, rest = data.split",
            "a line may arrive in pieces",
        ),
        (
            "waits += 1",
            "waits += 0",
            "the pauses between attempts grow",
        ),
        (
            'append(b"\\n" if cut else b"")',
            'append(b"")',
            "an interrupted line is ended before the next message is appended",
        ),
        (
            "ever_joined, waits = True, 0",
            "ever_joined = True",
            "the pauses begin anew after a success",
        ),
    ],
    "gen/vae_gan.py": [
        (
            "return F.softplus(-real) + F.softplus(recon) + F.softplus(sample)",
            "return F.softplus(-real) + F.softplus(recon)",
            "the discriminator learns from samples of random codes, too",
        ),
        (
            "return F.softplus(-recon) + F.softplus(-sample)",
            "return -F.softplus(recon) - F.softplus(sample)",
            "the decoder's loss does not saturate while the discriminator is sure",
        ),
        (
            "(mu**2 + logvar.exp() - logvar - 1).sum(1)",
            "(mu**2 + logvar.exp() - logvar).sum(1)",
            "the KL divergence is 0 where q(z|x) is the prior",
        ),
        (
            "0.5 * ((x - recon) / std).square()",
            "0.5 * (x - recon).square() / std",
            "errors are measured in standard deviations, and squared",
        ),
        (
            "(kl + nats).sum().div(args.batch_size)",
            "(kl + nats + deception).sum().div(args.batch_size)",
            "the encoder does not learn to deceive",
        ),
        (
            "args.error_weight * nats + deception",
            "nats + args.error_weight * deception",
            "gamma weighs the errors",
        ),
        (
            "for kind in drawn.chunk(3)",
            "for kind in drawn.chunk(1)",
            "each kind of pictures is normalized by itself",
        ),
        (
            "    discriminator.requires_grad_(True)\n",
            "",
            "the discriminator learns again after the others' turn",
        ),
        (
            "(0.5 * logvar).exp() * noise[:, 0]",
            "logvar.exp() * noise[:, 0]",
            "the noise is multiplied by the standard deviation, not the variance",
        ),
        (
            "decoder(torch.cat([z, noise[:, 1]]))",
            "decoder(torch.cat([z, noise[:, 0]]))",
            "samples come from noise of their own",
        ),
        (
            "x.diff(dim=2).square().mean() + x.diff(dim=3).square().mean()",
            "x.diff(dim=2).mean() + x.diff(dim=3).mean()",
            "differences of neighbours are squared: their sum is next to nothing",
        ),
        (
            "        sum_gradients(network)\n        optimizer.step()\n    discriminator",
            "        optimizer.step()\n    discriminator",
            "the processes add up the gradients of encoder and decoder",
        ),
    ],
    "gen/vae.py": [
        (
            "latent_statistics(model, x[:10_000])[0]",
            "latent_statistics(model, test[:10_000])[0]",
            "the codes of training pictures are theirs",
        ),
        (
            "0.5 * (mu**2 + logvar.exp() - logvar - 1)",
            "0.5 * (mu**2 + logvar.exp() - logvar)",
            "the KL divergence is 0 where q(z|x) is the prior",
        ),
        (
            "(0.5 * logvar).exp().unsqueeze(1) * noise",
            "logvar.exp().unsqueeze(1) * noise",
            "the noise is multiplied by the standard deviation, not the variance",
        ),
        (
            "0.5 * (noise**2 + logvar.unsqueeze(1) - z**2).sum(2)",
            "0.5 * (noise**2 - logvar.unsqueeze(1) - z**2).sum(2)",
            "q(z|x) is divided by its standard deviations",
        ),
        (
            'reduction="none").flatten(2).sum(2)',
            'reduction="none").flatten(2).mean(2)',
            "the likelihood is a sum over pixels",
        ),
        (
            "** 2 - self.log_std - 0.5 * math.log(2 * math.pi)",
            "** 2 - 0.5 * math.log(2 * math.pi)",
            "a Gaussian's density is divided by its standard deviation",
        ),
        (
            "torch.stack([recon + kl_weight * kl, recon, kl])",
            "torch.stack([recon + kl, recon, kl])",
            "--kl-weight counts",
        ),
        (
            "log_w.logsumexp(-1) - math.log(log_w.shape[-1])",
            "log_w.mean(-1)",
            "with k codes the bound is the log of the mean weight, not the mean of the logs",
        ),
        (
            "return total - math.log(num_samples)",
            "return total - math.log(per_pass)",
            "the evidence is a mean over all codes, in however many passes",
        ),
        (
            "chosen.byte() * 255",
            "chosen.byte()",
            "binarized pixels are 0 and 255, as grey ones",
        ),
        (
            "torch.cat([self.shuffled(epoch), self.shuffled(epoch + 1)])",
            "torch.cat([self.shuffled(epoch), self.shuffled(epoch)])",
            "a batch across the end of an epoch goes on with the next one's order",
        ),
        (
            "noise[share], args, loss_function",
            "noise[: share.stop - share.start], args, loss_function",
            "every process takes its own share of the noise",
        ),
        (
            "    sum_gradients(model)\n",
            "",
            "the processes add up their gradients",
        ),
        (
            "generator(device, args.seed, NOISE, row_number)",
            "generator(device, args.seed, NOISE)",
            "every row has noise of its own",
        ),
        (
            "(3 ** (i + 1) - 1) / 2",
            "3**i",
            "stage i ends where the stages up to it add up to",
        ),
        (
            "if firsts[name] & held_out else train",
            "if firsts[name] <= held_out else train",
            "no training picture begins with a test code point in any spelling",
        ),
        (
            "/ 257).clip(0, 255)",
            "/ 255).clip(0, 255)",
            "16 bits are 257 times 8 bits",
        ),
    ],
    "algos/dynamic_programming.py": [
        (
            "masked_fill(model.terminations[states], 0.0)",
            "masked_fill(model.terminations[states], 1.0)",
            "what follows the end of an episode is worth 0",
        ),
        (
            "model.rewards[states] + gamma * next_values",
            "gamma * (model.rewards[states] + next_values)",
            "the reward of the next step itself is not discounted",
        ),
        (
            "    if not in_place:\n",
            "    if in_place in (True, False):\n",
            "in place, a state sees what the sweep has written before it",
        ),
        (
            "q >= q.amax(dim=-1, keepdim=True) - TIE",
            "q >= q.amax(dim=-1, keepdim=True) + TIE",
            "the best action is greedy",
        ),
        (
            "q >= q.amax(dim=-1, keepdim=True) - TIE",
            "q.argmax(dim=-1, keepdim=True) == torch.arange(q.shape[-1])",
            "equally good actions are all greedy, as in Figure 4.1",
        ),
        (
            "since == evaluation_sweeps or change < theta",
            "since >= 1 or change < theta",
            "the policy is evaluated for as many sweeps as asked for before it is improved",
        ),
        (
            "None if no_policy else policy, gamma, in_place)",
            "policy, gamma, in_place)",
            "value iteration's first sweep is not the random policy's",
        ),
        (
            "(residual if improve else change) < theta",
            "change < theta",
            "a policy whose values stay may still not be the best",
        ),
        (
            "values[:, None] - OPTIMAL",
            "values[:, None] + OPTIMAL",
            "a policy is optimal when its actions keep the value",
        ),
        (
            "returns += alive * model.rewards[chosen]",
            "returns += model.rewards[chosen]",
            "an episode that has ended earns nothing more",
        ),
        (
            "alive &= ~model.terminations[chosen]",
            "alive &= model.rewards[chosen] <= 0",
            "episodes end where the table says so, in a hole of the ice, too",
        ),
        (
            "found | (possible & found[model.next_states])",
            "found | (possible & (model.next_states < 0))",
            "an end that is several steps away is found, too",
        ),
    ],
    "algos/mcts.py": [
        (
            "discount = -1.0",
            "discount = 1.0",
            "what is good for the one to move is bad for the other",
        ),
        (
            "(1, height + 1, height + 2, height)]",
            "(1, height + 1, height + 2)]",
            "lines fall to the right as well",
        ),
        (
            "own, other, result = other, own, -result",
            "own, other, result = other, own, result",
            "a win of the other player counts against the one who moved first",
        ),
        (
            "bounds.index(max(bounds))",
            "bounds.index(min(bounds))",
            "UCB1 takes the largest bound",
        ),
        (
            "exploration * math.sqrt(math.log(self.total))",
            "exploration * math.sqrt(self.total)",
            "the bonus grows with the logarithm of the visits",
        ),
        (
            "for node, i, reward in reversed(path):",
            "for node, i, reward in path:",
            "returns are summed from the end",
        ),
        (
            "if node is None or state in passed:",
            "if node is None:",
            "a simulation does not walk in circles through the tree",
        ),
        (
            "value += (1 - td_lambda) * (mean - value)",
            "value += td_lambda * (mean - value)",
            "lambda weighs the return, not the estimate",
        ),
        (
            "max(1 / visits, learning_rate)",
            "min(1 / visits, learning_rate)",
            "the tree search's averages need steps of 1 / n",
        ),
        (
            "        self.copy.np_random = np.random.default_rng(self.rng.getrandbits(63))\n",
            "",
            "a copy with the real generator foresees what will be drawn",
        ),
        (
            "n / sum(seen.values())",
            "n / len(seen)",
            "probabilities are shares of what was counted",
        ),
        (
            "                result = -result\n",
            "",
            "a game that the opponent moved first in is scored for the opponent",
        ),
    ],
    "algos/actor_critic.py": [
        (
            "gamma * next_values * (1 - terminations) - values",
            "gamma * next_values - values",
            "after a termination there is nothing to bootstrap from",
        ),
        (
            "gamma * next_values * (1 - terminations) - values",
            "gamma * next_values * (1 - cuts) - values",
            "an episode that was cut off would have gone on",
        ),
        (
            "gamma * next_values * (1 - terminations) - values",
            "next_values * (1 - terminations) - values",
            "what comes next is discounted",
        ),
        (
            "gamma * (1 - cuts[t]) * running",
            "gamma * running",
            "the errors of the next episode are not this one's",
        ),
        (
            "gamma * (1 - cuts[t]) * running",
            "(1 - cuts[t]) * running",
            "later errors are discounted",
        ),
        (
            'values[:-1], values[1:], batch["terminations"]',
            'values[:-1], values[:-1], batch["terminations"]',
            "the next value is that of the next state",
        ),
        (
            '[batch["alive"]] for name, x in batch.items()',
            ".flatten(0, 1) for name, x in batch.items()",
            "the step in which an environment starts over is not learned from",
        ),
        (
            "return -(policy.log_prob(policy(obs), actions) * advantages).mean()",
            "return (policy.log_prob(policy(obs), actions) * advantages).mean()",
            "the loss falls when the return rises",
        ),
        (
            "self.lengths += ~self.ended",
            "self.lengths += 1",
            "the step in which an environment starts over is none of its episode's",
        ),
        (
            "terminations | truncations\n        self.returns += rewards",
            "terminations\n        self.returns += rewards",
            "an episode that is cut off is over, too",
        ),
        (
            'global_step += int(arrays["alive"].sum())',
            "global_step += args.num_envs * args.num_steps",
            "resets are not counted as steps",
        ),
        (
            'if not arrays["alive"].any():',
            "if False:",
            "a batch without any transition has no mean",
        ),
        (
            "if row_number % args.checkpoint_every == 0:  # everything",
            "if row_number == 0:  # everything",
            "a resumed run begins where the checkpoint's did",
        ),
    ],
    "algos/reinforce.py": [
        (
            "running = rewards[t] + gamma * running",
            "running = gamma * (rewards[t] + running)",
            "the reward of the action itself is not discounted",
        ),
        (
            "returns, alive = returns[:1].expand_as(returns), alive[:1].expand_as(alive)",
            "alive = alive[:1].expand_as(alive)",
            "with --credit return every action answers for the whole rollout",
        ),
        (
            "others = (returns * alive).sum(dim=1, keepdim=True) - returns * alive",
            "others = (returns * alive).sum(dim=1, keepdim=True)",
            "the own return in the baseline biases the gradient",
        ),
        (
            "- alive).clamp(min=1)",
            ").clamp(min=1)",
            "the others are one fewer than all",
        ),
        (
            '"advantages": returns - baselines}',
            '"advantages": returns + baselines}',
            "a baseline is subtracted",
        ),
        (
            "return -(policy.log_prob(policy(obs), actions) * advantages).sum() / num_episodes",
            "return -(policy.log_prob(policy(obs), actions) * advantages).mean()",
            "the sum over an episode's steps, not their mean, has the policy gradient as its mean",
        ),
        (
            'x[batch["alive"]] for name, x in batch.items()',
            "x.flatten(0, 1) for name, x in batch.items()",
            "what follows an episode's end is not learned from",
        ),
        (
            "(self.obs, actions, rewards * alive, alive)",
            "(self.obs, actions, rewards, alive)",
            "what an environment earns after the end of the episode does not count",
        ),
        (
            "alive & ~(terminations | truncations)",
            "alive & ~terminations",
            "an episode that is cut off is over, too",
        ),
        (
            "x[self.ended] = 0",
            "x[self.ended] *= 1",
            "the step in which the gridworld starts over is no transition",
        ),
        (
            "actions[:, 0] + self.action_space.start",
            "actions[:, 0]",
            "discrete actions need not begin at 0",
        ),
        (
            "np.eye(5) - gamma * transitions",
            "np.eye(5) - transitions",
            "values are discounted",
        ),
        (
            "return rng.gumbel(size=shape).astype(np.float32)",
            "return rng.standard_normal(size=shape).astype(np.float32)",
            "only Gumbel noise turns an argmax into a softmax sample",
        ),
        (
            '            value.restore(checkpoint["value"])\n',
            "",
            "a resumed run goes on with the value function it had",
        ),
    ],
    "algos/dqn.py": [
        (
            "rewards + gamma * (1 - terminations) * next_q",
            "rewards + gamma * next_q",
            "after a termination there is nothing to bootstrap from",
        ),
        (
            "rewards + gamma * (1 - terminations) * next_q",
            "rewards + (1 - terminations) * next_q",
            "what comes next is discounted",
        ),
        (
            "targets = td_targets(target_network,",
            "targets = td_targets(network,",
            "targets come from the frozen network",
        ),
        (
            "(gradient @ layer.weight).mul_(x.sign())",
            "gradient @ layer.weight",
            "what a ReLU has held back has no gradient",
        ),
        (
            "next_obs[i], rewards[i], terminations[i], truncated, _ = self.envs[i].step(action + self.first_action)\n",
            "next_obs[i], rewards[i], terminations[i], truncated, _ = self.envs[i].step(action + self.first_action)\n"
            "            terminations[i] |= truncated\n",
            "an episode that was cut off would have gone on",
        ),
        (
            "buffer.add(obs, next_obs, actions, rewards, terminations)",
            "buffer.add(obs, envs.obs, actions, rewards, terminations)",
            "what a last step led to is not the first observation of the next episode",
        ),
        (
            "obs = envs.obs.copy()",
            "obs = envs.obs",
            "the observation acted on must not be overwritten by the step",
        ),
        (
            "at = self.added % len(self.rows)",
            "at = self.added % (len(self.rows) - len(rows))",
            "the whole buffer is used before the oldest steps are overwritten",
        ),
        (
            "filled, device = min(self.added, len(self.rows)), self.rows.device",
            "filled, device = len(self.rows), self.rows.device",
            "rows that nothing was written to are not learned from",
        ),
        (
            "progress = min(1.0, step / (args.exploration_fraction * args.total_timesteps))",
            "progress = min(1.0, step / args.total_timesteps)",
            "exploration has fallen after a share of the training, not at its end",
        ),
        (
            "if global_step // args.target_frequency > before // args.target_frequency:",
            "if global_step // args.target_frequency > 0:",
            "the target network stays frozen between two copies",
        ),
        (
            'buffer.rows.copy_(checkpoint["buffer"])',
            'buffer.rows.clone().copy_(checkpoint["buffer"])',
            "a resumed run remembers what the interrupted one did",
        ),
    ],
    "algos/dyna_q.py": [
        (
            "next_values = next_q.amax(1)",
            "next_values = next_q.amin(1)",
            "Q-learning takes the next state to be worth its best action",
        ),
        (
            "alpha=args.gamma)",
            "alpha=1.0)",
            "what comes next is discounted",
        ),
        (
            "torch.lerp(q.take(pairs), targets, step_sizes)",
            "torch.lerp(targets, q.take(pairs), step_sizes)",
            "the step size is the share of the target, not of the old value",
        ),
        (
            "first_rows + next_states\n",
            "first_rows + states\n",
            "an update bootstraps from the next state",
        ),
        (
            "taken = counts.sum(-1) > 0",
            "taken = counts.sum(-1) >= 0",
            "what was never tried is never simulated",
        ),
        (
            "outcomes = draw(counts[runs, states, actions], 1, generator).squeeze(-1)",
            "outcomes = counts[runs, states, actions].argmax(-1)",
            "simulated outcomes come in the ratio of the counts",
        ),
        (
            "counts[runs, states, actions, outcomes] += active",
            "counts[runs, states, actions, outcomes] = active",
            "outcomes are counted, not remembered once",
        ),
        (
            "step_sizes = args.learning_rate * active",
            "step_sizes = torch.full_like(active, args.learning_rate)",
            "a run that is through with its episodes learns no more",
        ),
        (
            ".where(tried, q[:, :-1])",
            "",
            "value iteration leaves the pairs alone that were never tried",
        ),
        (
            "return one_of((q == q.amax(-1, keepdim=True)) | explore, generator)",
            "return torch.where(explore.squeeze(-1), one_of(q == q, generator), q.argmax(-1))",
            "ties are broken at random",
        ),
        (
            "outcome = (num_states if ends else int(next_state), float(reward))",
            "outcome = (int(next_state), float(reward))",
            "a step that ends the episode leads to the end, which is worth nothing",
        ),
        (
            "ended |= steps >= table.time_limit",
            "ended |= steps > table.time_limit",
            "an episode is cut off after so many steps, not one later",
        ),
    ],
    "algos/random_search.py": [
        (
            "(sums[:, 0] >= 0).long()",
            "(sums[:, 0] > 0).long()",
            "below zero it is left, and zero is not below",
        ),
        (
            "sums.argmax(dim=1)",
            "sums.argmin(dim=1)",
            "the largest sum decides",
        ),
        (
            "np.where(self.over, 0, self.returns + rewards)",
            "self.returns + rewards",
            "an episode's return begins at zero",
        ),
        (
            "np.where(self.over, 0, self.lengths + 1)",
            "np.where(self.over, 1, self.lengths + 1)",
            "the step that starts an episode is none of it",
        ),
        (
            "self.over = terminations | truncations",
            "self.over = terminations",
            "an episode that is cut off is over, too",
        ),
        (
            "        i = i[self.searching[i]]\n",
            "",
            "what comes after a trial's end does not count",
        ),
        (
            "solved = returns >= args.solved_return",
            "solved = returns > args.solved_return",
            "the bar is to be reached, not passed",
        ),
        (
            "(episodes + 1 < args.max_episodes)",
            "(episodes < args.max_episodes)",
            "a trial is given up after so many episodes, not one more",
        ),
        (
            "2 * torch.rand(shape, generator=generator, device=generator.device) - 1",
            "torch.rand(shape, generator=generator, device=generator.device)",
            "weights may be negative",
        ),
        (
            "world.returns[i] > best_returns[i]",
            "world.returns[i] < best_returns[i]",
            "the best weights are kept",
        ),
        (
            "i = i[episodes[i] < num_episodes]",
            "i = i[episodes[i] <= num_episodes]",
            "the score is a mean over so many episodes of each",
        ),
        (
            "trials.solved & (trials.episodes <= last)",
            "trials.solved & (trials.episodes < last)",
            "the last episode counts in the share solved",
        ),
    ],
    "algos/hill_climbing.py": [
        (
            "totals[i] > best_returns[i]",
            "totals[i] >= best_returns[i]",
            "a change that makes no difference is not kept",
        ),
        (
            "best_returns[better], trials.weights[better] = totals[better], weights[better]",
            "best_returns[i], trials.weights[better] = totals[i], weights[better]",
            "the mark to beat is the best, not the last",
        ),
        (
            "            totals[i] = 0\n",
            "",
            "every update has a sum of its own",
        ),
        (
            "(trials.episodes[i] % args.episodes_per_update == 0)",
            "(trials.episodes[i] % args.episodes_per_update == 1)",
            "weights are judged by so many episodes",
        ),
        (
            "improved = trials.solved[i] | (totals",
            "improved = (totals",
            "the weights that solved the task are kept in the middle of an update, too",
        ),
        (
            "np.where(improved, 0, failures[i] + 1)",
            "failures[i] + 1",
            "an improvement sets the noise back",
        ),
        (
            "args.noise_growth * failures[i]",
            "args.noise_growth * trials.episodes[i]",
            "the noise grows with failures, not with episodes",
        ),
        (
            "weights[i] = trials.weights[i] + noise.view(-1, 1, 1)",
            "weights[i] = weights[i] + noise.view(-1, 1, 1)",
            "the next weights lie around the best, not around the last",
        ),
        (
            "trials.weights[:] = uniform(trials.weights.shape, generator)",
            "trials.weights[:] = 0",
            "trials start at random",
        ),
        (
            "noise.view(-1, 1, 1) * uniform",
            "noise.view(-1, 1, 1) * 0.5 + 0 * uniform",
            "changes point anywhere",
        ),
    ],
    "algos/dyna2.py": [
        (
            "errors[rows, t - 1] += model.gamma * values",
            "errors[rows, t - 1] -= model.gamma * values",
            "what is good for the next player is bad for this one",
        ),
        (
            "(steps - steps.unsqueeze(1)).clamp",
            "(steps.unsqueeze(1) - steps).clamp",
            "later errors count less, by one factor each step",
        ),
        (
            "decay.triu().T",
            "decay.triu()",
            "a pair learns from what came after it, not before",
        ),
        (
            "errors[rows, -1] = 0  #",
            "pass  #",
            "a simulated episode that is cut off has not ended there",
        ),
        (
            "torch.where(truncations, 0.0, rewards - values)",
            "rewards - values",
            "nothing is learned of a pair that the model has never seen",
        ),
        (
            "torch.sub(memory, long, out=short)",
            "short.copy_(memory)",
            "the short-term memory holds the correction alone",
        ),
        (
            "sums / counts.clamp(min=1)",
            "sums",
            "a weight that games share moves by the mean",
        ),
        (
            "added[x, y - 1, line] += (NEXT - OUT_OF_REACH)",
            "added[x, y - 1, line] += 0 * (NEXT - OUT_OF_REACH)",
            "a stone brings the cell above within reach",
        ),
        (
            "torch.tensor([OUT_OF_REACH, NEXT, OTHER, OWN])[digits]",
            "torch.tensor([OUT_OF_REACH, NEXT, OWN, OTHER])[digits]",
            "the other player sees the stones exchanged",
        ),
        (
            "model.ratios[runs, before[:, 1], actions, world.outcomes] += learning",
            "model.ratios[runs, before[:, 1], actions, world.outcomes] += ~learning",
            "the model is counted while learning",
        ),
        (
            "* ~ended - values  # Sarsa",
            "- values  # Sarsa",
            "after a last step comes nothing: the next episode's value is not its own",
        ),
        (
            "short[games] = corrected",
            "short[:] = 0",
            "the short-term memory lives as long as the game",
        ),
    ],
    "algos/sarsa.py": [
        (
            "cumulative = [i + np.cumsum",
            "cumulative = [i + 1 - np.cumsum",
            "the outcomes of an action share out its interval by their probabilities",
        ),
        (
            "self.step_size[self.end :] = 0",
            "self.step_size[self.end + 1 :] = 0",
            "starting over is no transition: nothing is learned from it",
        ),
        (
            "trace.index_copy_(0, entries, step_size)",
            "trace.index_add_(0, entries, step_size)",
            "a replacing trace does not grow with repeated visits",
        ),
        (
            "(clock == max_steps) & (next_states < end), end)",
            "(clock == max_steps - 1) & (next_states < end), end)",
            "an episode is cut off after max_steps steps, not one earlier",
        ),
        (
            "torch.add(rewards, next_values, alpha=gamma)",
            "torch.add(rewards, next_values, alpha=1)",
            "what follows is discounted",
        ),
        (
            "masked_fill(episodes == num_episodes, halt)",
            "masked_fill(episodes == num_episodes + 1, halt)",
            "a run learns from its episodes and no more",
        ),
        (
            "visits.index_select(0, entries) ** -args",
            "(visits.index_select(0, entries) + 1) ** -args",
            "the first visit has the whole step size",
        ),
        (
            "(q + ties).argmax(dim=1)",
            "q.argmax(dim=1)",
            "ties are broken at random, not in favour of the first action",
        ),
        (
            "(1 - epsilon) * q.amax(dim=1) + epsilon * q.mean(dim=1)",
            "(1 - epsilon) * q.amax(dim=1) + epsilon * q.amin(dim=1)",
            "an exploring action is any, not the worst",
        ),
        (
            "torch.add(next_actions, next_rows, alpha=num_actions)",
            "torch.add(actions, next_rows, alpha=num_actions)",
            "SARSA's target is the value of the next action, not of this one in the next state",
        ),
        (
            "args.gamma * args.trace_lambda * same_episode",
            "args.gamma * args.trace_lambda",
            "a trace ends with its episode",
        ),
    ],
    "algos/q_learning.py": [
        (
            "cumulative = [i + np.cumsum",
            "cumulative = [i + 1 - np.cumsum",
            "the outcomes of an action share out its interval by their probabilities",
        ),
        (
            "self.step_size[self.end :] = 0",
            "self.step_size[self.end + 1 :] = 0",
            "starting over is no transition: nothing is learned from it",
        ),
        (
            "trace.index_copy_(0, entries, step_size)",
            "trace.index_add_(0, entries, step_size)",
            "a replacing trace does not grow with repeated visits",
        ),
        (
            "(clock == max_steps) & (next_states < end), end)",
            "(clock == max_steps - 1) & (next_states < end), end)",
            "an episode is cut off after max_steps steps, not one earlier",
        ),
        (
            "torch.add(rewards, next_values, alpha=gamma)",
            "torch.add(rewards, next_values, alpha=1)",
            "what follows is discounted",
        ),
        (
            "masked_fill(episodes == num_episodes, halt)",
            "masked_fill(episodes == num_episodes + 1, halt)",
            "a run learns from its episodes and no more",
        ),
        (
            "visits.index_select(0, entries) ** -args",
            "(visits.index_select(0, entries) + 1) ** -args",
            "the first visit has the whole step size",
        ),
        (
            "(q + ties).argmax(dim=1)",
            "q.argmax(dim=1)",
            "ties are broken at random, not in favour of the first action",
        ),
        (
            "index_select(0, first_row + next_states).amax(dim=1)",
            "index_select(0, first_row + next_states).mean(dim=1)",
            "the target is the value of the best next action, whatever the behaviour does",
        ),
        (
            "(greedy & (states < self.end))",
            "(states < self.end)",
            "Watkins's traces end at an action that is not greedy",
        ),
        (
            'if args.behaviour == "random":',
            'if args.behaviour != "random":',
            "the behaviour is what was asked for",
        ),
    ],
    "algos/tile_coding.py": [
        (
            "scaled[:, None] + self.offsets",
            "scaled[:, None] - self.offsets",
            "a displaced grid still covers the box",
        ),
        (
            ".squeeze(1) * (next_states != END)",
            ".squeeze(1) * (next_states != HALT)",
            "nothing follows a terminal state",
        ),
        (
            "step_size = args.learning_rate / args.num_tilings",
            "step_size = args.learning_rate",
            "the tiles of an observation share the step size",
        ),
        (
            "self.trace.view(-1).index_copy_(0, entries, active)",
            "self.trace.view(-1).index_add_(0, entries, active)",
            "a replacing trace does not grow with repeated visits",
        ),
        (
            "args.gamma * args.trace_lambda * playing",
            "args.gamma * args.trace_lambda * torch.ones_like(playing)",
            "a trace ends with its episode",
        ),
        (
            "(clock == max_steps) & (next_states == PLAYING)",
            "(clock == max_steps - 1) & (next_states == PLAYING)",
            "an episode is cut off after max_steps steps, not one earlier",
        ),
    ],
    "algos/td_lambda.py": [
        (
            "target = rewards[t, :runs] + gamma**n * v(w_t, x_n)",
            "target = rewards[t, :runs] + gamma * v(w_t, x_n)",
            "what comes after n steps is discounted n times",
        ),
        (
            "return returns[:time] - gamma**n * returns[n:]",
            "return returns[:time]",
            "an n-step return holds the rewards of n steps only",
        ),
        (
            "later = min(t + n, len(self.running))",
            "later = min(t + n, len(self.running) - 1)",
            "beyond the end there is the end, not the longest episode's last state",
        ),
        (
            "gamma * ((1 - lambda_) * x_next + lambda_ * features[t + 1, :runs])",
            "gamma * (x_next + lambda_ * features[t + 1, :runs])",
            "the weights of the n-step returns in a lambda-return add up to one",
        ),
        ("z.mul_(gamma * lambda_)", "z.mul_(lambda_)", "traces fade by the discount as well"),
        (
            "(1 - alpha * gamma * lambda_ * (z @ x.mT)) * x",
            "x",
            "the trace of true online TD is the dutch one: visits do not simply add up",
        ),
        (
            " - alpha * (value - old) * x",
            "",
            "true online TD takes back what the last step moved the value of this state",
        ),
        (
            "old.copy_(next_value)",
            "old.copy_(v(w_t, x_next))",
            "the old value of true online TD is that by the weights before the update",
        ),
        (
            " * (x != 0).any(dim=-1).unsqueeze(-2)",
            "",
            "a network, too, must value the end at 0",
        ),
        (
            "x.mT @ (x - gamma**n * x_n)",
            "(x - gamma**n * x_n).mT @ x",
            "a batch update moves the weights along the features of the state, not of the error",
        ),
        (
            "(b - a @ first.mT)",
            "b",
            "in a batch, weights of states never seen stay at their first values",
        ),
        (
            "torch.where(over > 0, len(probs), to.long())",
            "to.long()",
            "a transition that terminates leads to the end, not on from the state it is drawn in",
        ),
        (
            "each.std(dim=0) / args.num_runs**0.5",
            "each.std(dim=0)",
            "the standard error of a mean falls with the root of the number of runs",
        ),
    ],
    "algos/es.py": [
        (
            "return np.concatenate([noise, -noise]) if args.antithetic else noise",
            "return np.concatenate([noise, noise]) if args.antithetic else noise",
            "the second half of a group's members goes against the first",
        ),
        (
            "stream(args.seed, NOISE, update, group)",
            "stream(args.seed, NOISE, 0, group)",
            "every update has noise of its own",
        ),
        (
            "stream(args.seed, NOISE, update, group)",
            "stream(args.seed, NOISE, update)",
            "every group has noise of its own",
        ),
        (
            "noise *= self.args.sigma",
            "noise *= self.args.sigma**2",
            "sigma is the perturbations' standard deviation, not their variance",
        ),
        (
            "np.cumsum(counts) - (counts + 1) / 2",
            "np.cumsum(counts) - counts",
            "equal returns share the mean of their ranks",
        ),
        (
            "total / (len(returns) * self.args.sigma)",
            "total / (len(returns) * self.args.sigma**2)",
            "the sum is divided by n sigma: what is summed is epsilon, not sigma epsilon",
        ),
        (
            "self.second / (1 - BETA2**self.updates)",
            "self.second",
            "Adam's second moment begins at 0 and is scaled up for it",
        ),
        (
            "(step - self.args.weight_decay * self.theta)",
            "(step + self.args.weight_decay * self.theta)",
            "decay makes the parameters smaller",
        ),
        (
            "            if i:\n",
            "            if i < 0:\n",
            "there is a nonlinearity between the layers",
        ),
        (
            "returns[rows] += rewards[rows]",
            "returns += rewards[:n]",
            "an environment that starts over by itself earns nothing for the member whose episode has ended",
        ),
        (
            "rows = rows[going_on]",
            "rows = rows[: going_on.sum()]",
            "the members that go on keep their own environments",
        ),
        (
            'connection.send(("update", results))',
            'connection.send(("update", results[:0]))',
            "every process makes the same update",
        ),
        (
            "return [item for one in everyone for item in one]",
            "return local",
            "every machine learns what the others found",
        ),
        (
            "stream(self.args.seed, EPISODES, search.updates, self.index)",
            "stream(int(time.time_ns()), EPISODES, search.updates, self.index)",
            "the seed decides the episodes",
        ),
    ],
    "algos/mcts_batched.py": [
        (
            "(1, height + 1, height + 2, height)]",
            "(1, height + 1, height + 2)]",
            "lines fall to the right as well",
        ),
        (
            "1.0 - 2.0 * (first % 2)",
            "1.0 - 2.0 * ((first + 1) % 2)",
            "the first ply is the mover's own",
        ),
        (
            "-rollout(board, waiting, moved, plies, generator)",
            "rollout(board, waiting, moved, plies, generator)",
            "what the next player wins, the one who has moved loses",
        ),
        (
            "signs = 1.0 - 2.0 * (left % 2)",
            "signs = torch.ones_like(left, dtype=torch.float32)",
            "what is good for the one to move is bad for the other",
        ),
        (
            "live = inside & ~over[node]",
            "live = inside",
            "nobody moves on after the end of a game",
        ),
        (
            "torch.where(n == 0, total + order, bound)",
            "torch.where(n == 0, total - order, bound)",
            "what was not tried comes first",
        ),
        (
            "exploration * (n.sum(dim=1, keepdim=True).log() / n).sqrt()",
            "exploration * (n.sum(dim=1, keepdim=True) / n).sqrt()",
            "the bonus grows with the logarithm of the visits",
        ),
        (
            "torch.where(adds, played, results[node])",
            "torch.where(adds, played, 0.0)",
            "a game that has ended in the tree counts each time",
        ),
    ],
    "algos/reinforce_mnist.py": [
        (
            "torch.where(actions == labels, right, wrong)",
            "torch.where(actions != labels, right, wrong)",
            "right guesses get the higher reward",
        ),
        (
            "(rewards.sum() - rewards) / (len(rewards) - 1)",
            "rewards.mean()",
            "a baseline that holds the guess's own reward shrinks the gradient",
        ),
        ("return -(advantages *", "return (advantages *", "the expected reward is ascended"),
        ("/ y).argmin(dim=1)", "/ y).argmax(dim=1)", "likely guesses are made often"),
        (
            "labels if args.cross_entropy else sample(logits, generator)",
            "sample(logits, generator)",
            "cross-entropy learns from the labels",
        ),
        ("(square - (mean**2).sum(dim=1))", "square", "the noise is what is left of the square without the mean's"),
        ("more_likely = (after - before)", "more_likely = (before - after)", "after the update minus before it"),
        (
            'generator.set_state(checkpoint["generator"])',
            "pass",
            "a resumed run goes on with the numbers that an uninterrupted one would draw",
        ),
        (
            "            if hashlib.sha256(data).hexdigest() == digest:\n",
            "            if data:\n",
            "a damaged download is not moved into place",
        ),
        (" or len(data) != len(header) + math.prod(shape)", "", "a file that is cut short is no data set"),
        ("unsqueeze(1) * (255 / 16)", "unsqueeze(1) * (255 / 17)", "scikit-learn's ink goes from 0 to 16"),
    ],
    "algos/es_mnist.py": [
        ("torch.set_flush_denormal(before)", "torch.set_flush_denormal(True)", "the processor's setting comes back"),
        ("    torch.set_flush_denormal(True)\n", "", "a processor keeps denormals unless it is asked not to"),
        ("SCALE = 2.0**125", "SCALE = 2.0**124", "the post scales by 2^125"),
        (
            "        with torch.no_grad():  # backpropagation",
            "        if True:  # backpropagation",
            "backpropagation takes the network for a linear one on every device",
        ),
        ("math.sqrt(2 / n_in)", "math.sqrt(1 / n_in)", "weights begin as He et al. scale them"),
        (
            "lambda f: ((f * a.squeeze(2).T)",
            "lambda f: ((a.squeeze(2).T)",
            "a product counts as much as its pair's score",
        ),
        (
            "view(2, 1, 1, 1)\n    h, sums",
            "view(2, 1, 1, 1).abs()\n    h, sums",
            "the two of a pair are mirror images",
        ),
        (
            "view(2, 1, 1, 1)\n    x, gradients",
            "view(2, 1, 1, 1).abs()\n    x, gradients",
            "the two of a pair are mirror images under projected noise, too",
        ),
        ("(losses[-1][0] - losses[-1][1])", "(losses[-1][1] - losses[-1][0])", "downwards under projected noise, too"),
        ("(v / size.squeeze(2)).T", "v.T", "the noise that an image sees has the length of its input"),
        ("sign * (size * seen), flush)", "sign * seen, flush)", "long inputs see more of the noise"),
        ("x = underflow(z, flush)\n    return", "x = z\n    return", "the layers below underflow, too"),
        ("(2 * args.sigma * len(images))", "(args.sigma * len(images))", "a central difference is over 2 sigma"),
        ("(losses[0] - losses[1])", "(losses[1] - losses[0])", "the loss is descended"),
        (
            "torch.cat([x, torch.ones_like(x[:, :1])], dim=1)",
            "torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)",
            "the bias is perturbed as well",
        ),
    ],
    "algos/natural_gradient.py": [
        (
            "return delta @ metric @ delta",
            "return delta**2 @ metric.sum(1)",
            "the post's loop multiplies delta[i] by itself, not by delta[j]",
        ),
        (
            "return torch.linalg.inv(metric) @ gradient",
            "return metric @ gradient",
            "the natural gradient takes the metric's inverse",
        ),
        (
            "lambda new: kl(theta, new))(theta)",
            "lambda new: kl(new, new))(theta)",
            "the first argument of the KL stands still",
        ),
        (
            "weighted = (probs.sqrt() * scores)",
            "weighted = (probs * scores)",
            "scores are averaged with the policy's own probabilities",
        ),
        (
            "weighted.T @ weighted / len(probs)",
            "weighted.T @ weighted / len(weighted)",
            "the mean is over states",
        ),
        (
            "return fisher + args.damping * identity",
            "return fisher + identity",
            "only a small multiple of the identity is added",
        ),
        (
            "(2 * step_size / curvature).sqrt()",
            "(step_size / curvature).sqrt()",
            "half the squared length is the KL divergence",
        ),
        (
            "path[-1] + steepest_step(",
            "path[-1] - steepest_step(",
            "uphill",
        ),
        (
            "return math.sqrt(2 * step_size) * torch.linalg.solve_triangular(root,",
            "return math.sqrt(2 * step_size) * torch.linalg.solve_triangular(metric,",
            "all steps of one length, not of one squared length",
        ),
        (
            "delta = rewards + gamma * next_values * (1 - terminations) - values",
            "delta = rewards + gamma * next_values - values",
            "nothing follows a termination",
        ),
        (
            "gamma * (1 - cuts[t]) * running",
            "gamma * running",
            "the next episode's rewards are not this one's",
        ),
        (
            'lists["alive"].append(~self.ended)',
            'lists["alive"].append(self.ended | True)',
            "a step that only begins an episode is no transition",
        ),
        (
            '            value.restore(checkpoint["value"])\n',
            "",
            "a resumed run goes on with the value function it had",
        ),
    ],
    "algos/trpo.py": [
        (
            "earned * max_kl",
            "max_kl",
            "advantages below the value function's resolution earn smaller steps",
        ),
        (
            "return_std + 1e-8)).square().clamp(max=1)",
            "return_std + 1e-8)).clamp(max=1)",
            "the KL grows with the square of a step",
        ),
        (
            "next_values * (1 - terminations) - values",
            "next_values * (1 - terminations) + values",
            "the TD error subtracts the value of the state it starts from",
        ),
        (
            "next_values * (1 - terminations) - values",
            "next_values * (1 - cuts) - values",
            "a truncated episode would have gone on: its last value is bootstrapped",
        ),
        (
            "discount = gamma * gae_lambda * (1 - cuts)",
            "discount = gamma * gae_lambda * (1 - terminations)",
            "advantages must not leak over a truncation into the episode before it",
        ),
        (
            "next_values[truncations] = value(normalizer(final_obs))",
            "pass",
            "the state after a truncation is the last one of its episode, not the next one's first",
        ),
        (
            "values[:, :-1], values[:, 1:].clone()",
            "values[:, :-1], values[:, :-1].clone()",
            "the next value is one step later",
        ),
        (
            "terminations, gae_lambda = cuts, 1.0",
            'terminations, gae_lambda = batch["terminations"], 1.0',
            "the post's Monte-Carlo returns end at the time limit",
        ),
        ("+ damping * v", "", "the Fisher matrix is damped"),
        (
            "torch.full_like(log_std, 2.0)",
            "torch.full_like(log_std, 1.0)",
            "the Fisher information of a log standard deviation is 2",
        ),
        (
            "p * (tangent - (p * tangent).sum(dim=1, keepdim=True))",
            "p * tangent",
            "the Fisher matrix of a softmax is diag(p) - p p^T",
        ),
        ("x += alpha * direction", "x -= alpha * direction", "conjugate gradients go down"),
        ("alpha = rr / (direction @ a_direction + tiny)", "alpha = rr / (direction @ a_direction)", "0/0 is nan"),
        ("(2 * max_kl / curvature)", "(max_kl / curvature)", "half d^T F d reaches the bound, not d^T F d"),
        ("bool((kl <= max_kl) & (gain > 0))", "bool(gain > 0)", "the line search demands the KL bound"),
        ("bool((kl <= max_kl) & (gain > 0))", "bool(kl <= max_kl)", "the line search demands an improvement"),
        (
            "set_parameters(policy, theta)\n                fraction",
            "fraction",
            "a failed line search restores the old parameters",
        ),
        ("old_params = params.detach()", "old_params = params", "the old policy is a constant"),
        (
            "return x if self.std is not None else",
            "return -x if self.std is not None else",
            "actors act as the network does",
        ),
        ("np.tanh(x, out=x)", "np.maximum(x, 0, out=x)", "actors and learner have the same activation"),
        (
            "final_obs.append(self.obs[i].copy())",
            "final_obs.append(self.obs[i])",
            "the last observation is copied before the reset overwrites it",
        ),
        ("terminated, not terminated", "terminated or truncated, False", "a time limit is not a termination"),
        ("delta**2 * self.count * count / total", "0", "merging variances needs the distance of the means"),
        ("last.weight *= self.std / std", "pass", "Pop-Art keeps the values when it changes the scale"),
        (
            "now > before + args.adapt_margin * abs(before)",
            "now > before + args.adapt_margin * before",
            "returns are negative, too",
        ),
        (
            "fresh = update % args.checkpoint_every == 0",
            "fresh = update == 0",
            "a resumed run starts from fresh episodes",
        ),
        ("order.split(args.value_minibatch)", "order.split(args.value_minibatch)[:1]", "an epoch sees the whole batch"),
        ("minibatch // n == rank", "minibatch // n == 0", "every process takes its own share of a minibatch"),
    ],
}


def run_tests(script: str, mutation: tuple[str, str, str] | None, time_limit: float) -> str:
    """Test a copy of the script with one mutation, or without: "failed", "passed", or what kept the tests from running.

    A test that hangs counts as failed.
    """
    text = (ROOT / script).read_text(encoding="utf-8")
    if mutation:
        old, new, _ = mutation
        if text.count(old) != 1:
            return f"does not apply: its old text occurs {text.count(old)} times"
        text = text.replace(old, new)
        try:
            compile(text, script, "exec")
        except SyntaxError as error:
            return f"does not apply: {error}"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "project")
        for name in ("algos", "gen", "benchmarks", "tests"):
            if (ROOT / name).exists():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        (copy / script).write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
        command.append(f"tests/test_{Path(script).stem}.py")
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"TMPDIR": folder}
        try:
            done = subprocess.run(command, cwd=copy, env=env, capture_output=True, timeout=time_limit, check=False)
        except subprocess.TimeoutExpired:
            return "failed"
    if done.returncode > 1:  # pytest's own codes: interrupted, internal error, wrong usage, no tests
        return f"cannot be tested: {(done.stdout + done.stderr)[-2000:].decode()}"
    return "failed" if done.returncode else "passed"


def main(
    scripts: tyro.conf.Positional[tuple[str, ...]] = (),
    jobs: Annotated[int, tyro.conf.arg(help="copies that are tested side by side")] = len(os.sched_getaffinity(0)),
    time_limit: Annotated[float, tyro.conf.arg(help="seconds after which a copy's tests count as failed")] = 600,
) -> int:
    """Scripts to break, such as algos/trpo.py (default: all). Returns the number of mutations that were not noticed."""
    unknown = [script for script in scripts if script not in MUTATIONS]
    if unknown:
        raise SystemExit(f"no mutations of {' '.join(unknown)}; there are some of {' '.join(MUTATIONS)}")
    unnoticed = 0
    for script in scripts or MUTATIONS:
        # Unless the tests pass on the script as it is, that they fail on a mutation would not mean anything.
        outcome = run_tests(script, None, time_limit)
        if outcome != "passed":
            print(f"{script}: its tests do not pass without any mutation ({outcome})")
            unnoticed += len(MUTATIONS[script])
            continue
        with ThreadPoolExecutor(jobs) as pool:
            outcomes = pool.map(partial(run_tests, script, time_limit=time_limit), MUTATIONS[script])
            for (old, new, reason), outcome in zip(MUTATIONS[script], outcomes, strict=True):
                noticed = outcome == "failed"
                unnoticed += not noticed
                print(f"{'noticed ' if noticed else 'SURVIVED'} {script}: {reason}", flush=True)
                if not noticed:
                    print(f"    - {old}\n    + {new}\n    {outcome}")
    total = sum(len(MUTATIONS[script]) for script in scripts or MUTATIONS)
    print(f"{total} mutations, {unnoticed} not noticed")
    return unnoticed


if __name__ == "__main__":
    raise SystemExit(bool(tyro.cli(main, description=__doc__)))
