#!/usr/bin/env bash
# Every published number by one command each.
#
#   ./benchmark.sh                     everything that is not finished, then all figures and tables
#   ./benchmark.sh trpo-envs           the rows whose names begin so ('*-speed-*' works, too; trpo: its whole section)
#   ./benchmark.sh --list              the commands, one a line, and nothing else
#   ./benchmark.sh --quick             every script at a toy budget: does it run here?
#   ./benchmark.sh --slurm | sbatch    an array job with a task for each unfinished run
#   ./benchmark.sh --help              jobs side by side, other seeds
#
# A row: name | seeds | cores | command. Lists in braces are walked together and make one row per item: a-{x,y} with
# --env-id {X,Y} stands for a-x with X and a-y with Y. Cores: "1" shares the machine with other runs, one core each;
# "all" has the machine to itself, as timings need it; "4+" does, too, and is skipped where there are fewer cores.
# --seed and --run-dir are added to every command. What runs from benchmarks/peers/ gets an environment of its own,
# with the versions that the script names. [trpo] begins the section whose results go to results/trpo/.

# RL Zoo's settings for TRPO on MuJoCo, which gave sb3-contrib's published returns
zoo='--total-timesteps 1000000 --num-envs 2 --num-steps 1024 --gae-lambda 0.95 --cg-steps 25 --critic-updates 20'
# the post's experiments: ten environments, whose steps add up to 1,000, 5,000 or 20,000 an update
post='--env-id {Reacher,Swimmer,HalfCheetah}-v5 --gamma {0.95,0.99,0.99} --total-timesteps {1000000,2000000,3000000}'
post="$post --num-envs 10"
adapt='--num-steps 100 --max-kl 0.001 --adapt'
margin='--adapt-margin 0.05'
humanoid='--env-id Humanoid-v5 --total-timesteps 1000000 --num-envs 10'
reacher='algos/trpo_parallel.py --env-id Reacher-v5 --gamma 0.95'
processes='python -m torch.distributed.run --standalone --nproc-per-node'
actors='--total-timesteps 200000 --num-envs 80 --num-steps 250'
# temporal differences: the book's random walks, its step sizes and finer ones
walk5='--env-id walk-5 --num-runs 500 --total-episodes 100'
walk19='--env-id walk-19 --num-runs 500 --total-episodes 10'
to_1='0.05 0.1 0.15 0.2 0.25 0.3 0.35 0.4 0.45 0.5 0.55 0.6 0.65 0.7 0.75 0.8 0.85 0.9 0.95 1'
to_05='0.005 0.01 0.015 0.02 0.025 0.03 0.035 0.04 0.045 0.05'
worlds='{5x5,frozenlake8x8,cliff,taxi}'
world='--env-id {gridworld-5x5,FrozenLake8x8-v1,CliffWalking-v1,Taxi-v4} --gamma {0.9,0.99,1,1}'
# policy gradients: credit and baseline; the natural gradient: KL divergence of a step, in nats
credits='{return,return,return,reward-to-go,reward-to-go,reward-to-go}'
baselines='{none,mean,value,none,mean,value}'
names='{return-none,return-mean,return-value,togo-none,togo-mean,togo-value}'
kl_sizes='{0.0005,0.002,0.005,0.02}'
# Q-learning on the ten newest transitions, each of them once
no_replay='--buffer-size 10 --batch-size 10'
# the cartoons of Noto Color Emoji and the messages of the Ubuntu channel, made or fetched once; then the command
emoji='python -m benchmarks.emoji'
ubuntu='python -m benchmarks.ubuntu_chat'
timed='python benchmarks/cpu_clock.py benchmarks/ubuntu_chat.py'
messages='--data data/ubuntu-irc.txt.gz'

cd "$(dirname "$0")" && exec "${PYTHON:-python}" benchmarks/run.py "$@" <<TABLE
[trpo]
# learning curves, beside the published tables; Swimmer's discount is sb3-contrib's, its lambda was chosen on seeds 2 and
# 6, the first standard deviation of 1 on seeds 6 and 7 of Walker2d and 7 of Swimmer
trpo-envs-{halfcheetah,ant,hopper,invertedpendulum,reacher} | 1-5 | 1 | python algos/trpo.py --env-id {HalfCheetah,Ant,Hopper,InvertedPendulum,Reacher} --total-timesteps 1000000 {,,,,--gamma 0.95}
trpo-envs-{walker2d,swimmer} | 8-12 | 1 | python algos/trpo.py --env-id {Walker2d,Swimmer} --total-timesteps 1000000 --log-std-init 0 {,--gamma 0.9999 --gae-lambda 0.99}
# where published returns are of older versions: ours on the oldest that there is, sb3-contrib on the newest
trpo-v4-{hopper,walker2d,ant} | 1-3 | 1 | python algos/trpo.py --env-id {Hopper,Walker2d,Ant}-v4 --total-timesteps 1000000 {,--log-std-init 0,}
sb3-envs-{hopper,walker2d,ant,swimmer} | 1-3 | 1 | python -m benchmarks.peers.sb3_trpo --env-id {Hopper,Walker2d,Ant,Swimmer}-v5 $zoo {,,,--gamma 0.9999}

[ppo]
# beside CleanRL's published means, and baselines'; with TRPO's settings for Walker2d and Swimmer, and a first standard
# deviation of 1 for Hopper, too (seeds 6 and 7)
ppo-{halfcheetah,invertedpendulum,inverteddoublependulum,humanoid,reacher} | 1-3 | 1 | python algos/ppo.py --env-id {HalfCheetah,InvertedPendulum,InvertedDoublePendulum,Humanoid,Reacher} --total-timesteps 1000000 {,,,,--gamma 0.95}
ppo-{walker2d,hopper,swimmer} | 1-3 | 1 | python algos/ppo.py --env-id {Walker2d,Hopper,Swimmer} --total-timesteps 1000000 --log-std-init 0 {,,--gamma 0.9999 --gae-lambda 0.99}

[trpo_parallel]
# the post's experiments: steps per update, KL bound, adaptation without and with a margin, value function
trpo-post-{reacher,swimmer,halfcheetah}-steps1000           | 1-2 | 1 | python algos/trpo_parallel.py $post --num-steps 100 --max-kl 0.001
trpo-post-{reacher,swimmer,halfcheetah}-steps5000           | 1-2 | 1 | python algos/trpo_parallel.py $post --num-steps 500 --max-kl 0.001
trpo-post-{reacher,swimmer,halfcheetah}-steps20000          | 1-2 | 1 | python algos/trpo_parallel.py $post --num-steps 2000 --max-kl 0.001
trpo-post-{reacher,swimmer,halfcheetah}-kl005               | 1-2 | 1 | python algos/trpo_parallel.py $post --num-steps 2000 --max-kl 0.005
trpo-post-{reacher,swimmer,halfcheetah}-kl010               | 1-2 | 1 | python algos/trpo_parallel.py $post --num-steps 2000 --max-kl 0.01
trpo-post-{reacher,swimmer,halfcheetah}-adapt-steps         | 1-2 | 1 | python algos/trpo_parallel.py $post $adapt steps
trpo-post-{reacher,swimmer,halfcheetah}-adapt-kl            | 1-2 | 1 | python algos/trpo_parallel.py $post $adapt kl
trpo-post-{reacher,swimmer,halfcheetah}-adapt-both          | 1-2 | 1 | python algos/trpo_parallel.py $post $adapt both
trpo-post-{reacher,swimmer,halfcheetah}-adapt-steps-margin  | 1-2 | 1 | python algos/trpo_parallel.py $post $adapt steps $margin
trpo-post-{reacher,swimmer,halfcheetah}-adapt-kl-margin     | 1-2 | 1 | python algos/trpo_parallel.py $post $adapt kl $margin
trpo-post-{reacher,swimmer,halfcheetah}-adapt-both-margin   | 1-2 | 1 | python algos/trpo_parallel.py $post $adapt both $margin
trpo-post-{reacher,swimmer,halfcheetah}-linear              | 1-2 | 1 | python algos/trpo_parallel.py $post --num-steps 2000 --max-kl 0.001 --value linear
# does adaptation need GAE and the network? a batch must hold an episode of each environment: one environment
trpo-post-halfcheetah-adapt-kl-linear | 1-2 | 1 | python algos/trpo_parallel.py --env-id HalfCheetah-v5 --total-timesteps 3000000 --num-envs 1 --num-steps 1000 --max-kl 0.001 --adapt kl --value linear
# the post's open question
trpo-humanoid-{none,both} | 1-3 | 1 | python algos/trpo_parallel.py $humanoid {--num-steps 500 --max-kl 0.01,$adapt both $margin}
# steps per second at a batch of 4,992, and what the environment itself allows
raw-stepping-reacher    | 1-3 | all | python -m benchmarks.raw_stepping --env-id Reacher-v5
trpo-speed-reacher      | 1-3 | all | $processes 2 $reacher --total-timesteps 300000 --num-steps 312 --value-epochs 2
sb3-speed-reacher       | 1-3 | all | python -m benchmarks.peers.sb3_trpo --total-timesteps 300000 --num-envs 16 --num-steps 312
# seconds from the first environment step to a mean return of -5 over 100 training episodes
trpo-to5-ours    | 1-5 | all | $processes 2 $reacher --total-timesteps 200000 --max-kl 0.03
trpo-to5-single  | 1-5 | all | python algos/trpo.py --env-id Reacher-v5 --gamma 0.95 --total-timesteps 200000
sb3-to5-best     | 1-5 | all | python -m benchmarks.peers.sb3_trpo --stop-return -5
sb3-to5-{ours,same-kl} | 1-5 | all | python -m benchmarks.peers.sb3_trpo --stop-return -5 --num-steps 128 --target-kl {0.03,0.015} --log-std-init -1 --gamma 0.95 --gae-lambda 0.95
trpo-post-start  | 1-2 | all | python algos/trpo_parallel.py --env-id Reacher-v5 --gamma 0.95 --total-timesteps 4000000 --num-envs 10 --num-steps 2000 --max-kl 0.001 --log-std-init 0
# seconds per update of 20,000 steps, over the number of actors
trpo-actors-{1,2,4,8,16} | 1 | {all,2+,4+,8+,16+} | $processes {1,2,4,8,16} $reacher $actors
trpo-actors-{swimmer-1,swimmer-2,halfcheetah-1,halfcheetah-2} | 1 | all | $processes {1,2,1,2} algos/trpo_parallel.py --env-id {Swimmer,Swimmer,HalfCheetah,HalfCheetah}-v5 $actors

[random_search]
# the post's 13.53 episodes on CartPole-v0, and the same with CartPole-v1's limit
random-{v0,v1} | 1-5 | 1 | python algos/random_search.py {,--max-episode-steps 500}
# the reference: the fraction of a million random weight vectors that reach the limit, in an independent simulation
random-weights | 1-2 | 1 | python -m benchmarks.random_weights

[hill_climbing]
# the post's loop for as long as the post let it run; then each remedy, less noise and more, up to 1,000 episodes
hill-plain         | 1 | 1 | python algos/hill_climbing.py --num-runs 20000 --max-episodes 2000
hill-{growth-0.01,growth-0.1,episodes-5,noise-0.3,noise-3} | 1 | 1 | python algos/hill_climbing.py --num-runs 1000 {--noise-growth 0.01,--noise-growth 0.1,--episodes-per-update 5,--noise 0.3,--noise 3}
# beside them, the post's policy gradient, and weights where a trial is stuck
hill-{gradient,plateau} | 1 | 1 | python -m benchmarks.{policy_gradient_post --num-runs 100,plateau}
# the same pole with observations that mean nothing beside its four
hill-wide-{random,growth,gradient}-16  | 1 | 1 | python -m benchmarks.wide_cartpole --num-runs 60 --num-inputs 16 --method {random,growth,gradient}
hill-wide-{random,growth,gradient}-64  | 1 | 1 | python -m benchmarks.wide_cartpole --num-runs 60 --num-inputs 64 --method {random,growth,gradient}
hill-wide-{random,growth,gradient}-256 | 1 | 1 | python -m benchmarks.wide_cartpole --num-runs 60 --num-inputs 256 --method {random,growth,gradient}

[reinforce]
# learning curves of credit and baseline; togo-value is the default, beside pytorch/examples' number of episodes
reinforce-$names    | 1-10 | 1 | python algos/reinforce.py --credit $credits --baseline $baselines
# bias and variance of the gradient by kind of advantage and by discount; the cost of a decision among many actions
gradient-variance   | 1-3 | 1 | python -m benchmarks.gradient_variance
action-maximum      | 1   | 1 | python -m benchmarks.action_maximum

[reinforce_gridworld]
# two states that look the same; the return as a function of one parameter
gridworld           | 1-10 | 1 | python algos/reinforce_gridworld.py
gridworld-parameter | 1    | 1 | python -m benchmarks.one_parameter

[actor_critic]
# the bars: 475 on CartPole, 950 on the inverted pendulum, each within 500,000 steps
ac-cartpole  | 1-5 | 1 | python algos/actor_critic.py
ac-pendulum  | 1-3 | 1 | python algos/actor_critic.py --env-id InvertedPendulum --total-timesteps 300000
# from the post's single step to many
ac-steps-{1,4,16,128} | 1-2 | 1 | python algos/actor_critic.py --num-steps {1,4,16,128} --learning-rate {0.001,0.002,0.005,0.005} --value-learning-rate {0.001,0.002,0.003,0.003} --value-epochs {1,2,5,10}
# CPU seconds to 475, beside stable-baselines3
sb3-to475-a2c  | 1-5 | 1 | python -m benchmarks.peers.sb3_cartpole --algorithm a2c --stop-return 475

[natural_gradient]
# steps of one KL divergence along the natural and along the plain gradient
ng-natural-$kl_sizes            | 1-3 | 1 | python algos/natural_gradient.py --step-size $kl_sizes
ng-plain-$kl_sizes              | 1-3 | 1 | python algos/natural_gradient.py --damping 1000 --step-size $kl_sizes
ng-acrobot-{natural,plain}      | 1-3 | 1 | python algos/natural_gradient.py --env-id Acrobot-v1 --damping {0.001,1000} --step-size 0.005
# a classifier by plain and natural gradient
ng-classifier                   | 1   | 1 | python -m benchmarks.classifier_natural_gradient

[mcts]
# simple search, a greedy tree and UCT at equal simulations; UCT against simple search
mcts-tictactoe-{simple,greedy,uct} | {1-3,1-3,1-6} | 1 | python -m benchmarks.exact_tictactoe --simulations 10 30 100 300 1000 3000 {--search simple,--exploration 0,}
mcts-connect-{10,30,100}       | 1    | 1 | python algos/mcts.py --env-id connect-four --opponent simple --total-episodes 200 --simulations {10,30,100}
# beside open_spiel: simulations per second of one tree, and 200 games of Connect Four at equal simulations
openspiel-speed  | 1-3 | all | python -m benchmarks.peers.openspiel_mcts
openspiel-match  | 1   | 1   | python -m benchmarks.peers.openspiel_mcts --games 200 --simulations 100 --exploration 1.4

[mcts_batched]
# simulations per second over the number of positions, beside mctx
mcts-batched-tictactoe-{16,64,256,1024} | {1,1,1-3,1} | all | python algos/mcts_batched.py --simulations 100 --total-episodes {32,128,512,2048}
mcts-batched-connect-{64,256}           | 1   | all | python algos/mcts_batched.py --simulations 100 --env-id connect-four --total-episodes {128,512}
mctx-speed       | 1-3 | all | python -m benchmarks.peers.mctx_search

[dqn]
# learning curves, beside CleanRL's
dqn-{cartpole,acrobot}  | 1-3 | 1 | python algos/dqn.py --env-id {CartPole-v1,Acrobot-v1}
cleanrl-cartpole        | 1-3 | 1 | python -m benchmarks.peers.cleanrl_dqn
# the post's two tricks, each switched off: return and largest |Q|
dqn-no-{replay,target,tricks}  | 1-3 | 1 | python algos/dqn.py {$no_replay,--target-frequency 1,$no_replay --target-frequency 1}

[es]
# the paper's Table 3: steps to the returns of TRPO; settings of the double pendulum chosen on seed 9
es-table3-{invertedpendulum,swimmer,halfcheetah}  | 1-3 | 1 | python algos/es.py --env-id {InvertedPendulum,Swimmer,HalfCheetah}-v5 --total-timesteps {200000,1400000,2900000} --learning-rate {0.05,0.05,0.02}
es-table3-inverteddoublependulum  | 1-3 | 1 | python algos/es.py --env-id InvertedDoublePendulum-v5 --total-timesteps 5400000 --learning-rate 0.005 --sigma 0.02
# without ranks, without normalized observations, and a network that backpropagation cannot train
es-cartpole-{defaults,returns,raw-obs,sign}  | 1-3 | 1 | python algos/es.py --total-timesteps 100000 --eval-every 1 {,--no-centered-ranks,--no-normalize-obs,--activation sign}

[dyna_q]
# Figure 8.2
dyna-maze-n{0,5,50}  | 1-3 | 1 | python algos/dyna_q.py --planning-steps {0,5,50}

[dyna2]
# learning with search before every move, and without; matches, every seed with a long-term memory of its own
dyna2{,-no-search} | 1-3 | 1 | python algos/dyna2.py {,--simulations 0 --num-games 256 --total-episodes 15360}
dyna2-match     | 1-3 | 1 | python -m benchmarks.dyna2_match --games 32 --pairs both:uct short:uct long:uct both:short both:long

[sarsa]
# Example 6.6: the cliff
sarsa-cliff{,-expected}  | 1-3 | 1 | python algos/sarsa.py {,--expected}

[q_learning]
# Example 6.6: the cliff, and learning the shortest path from a random policy
q-cliff{,-random}        | {1-3,1} | 1 | python algos/q_learning.py {,--num-runs 100 --total-episodes 30 --start-e 1 --end-e 1}
# the post's two doors: no exploration, a fixed epsilon, one that decreases
q-doors-{greedy,fixed,decaying} | 1 | 1 | python algos/q_learning.py --env-id doors --num-runs 2000 --learning-rate 0.02 --start-e {0,0.1,1} --end-e {0,0.1,0}

[sarsa_lambda]
# Example 6.5, the windy gridworld: no trace, three kinds of trace, Watkins's Q(lambda); Example 6.6, the cliff
sl-windy-{0,replacing,clearing,accumulating,watkins} | 1 | 1 | python algos/sarsa_lambda.py --env-id WindyGridworld --num-runs 50 {--trace-lambda 0 --learning-rate 0.5,--trace replacing,--trace clearing,--trace accumulating,--watkins}
sl-cliff-{sarsa,watkins} | 1 | 1 | python algos/sarsa_lambda.py --num-runs 50 {--no-watkins,--watkins}
# Example 5.3: Monte-Carlo control plays Blackjack, and its policy is scored exactly
sl-blackjack             | 1 | 1 | python -m benchmarks.blackjack --total-episodes 625000

[tile_coding]
# MountainCar-v0 with three kinds of trace; the same without Gymnasium's time limit, as in Figure 12.11
tiles-car-{replacing,clearing,accumulating}  | 1 | 1 | python algos/tile_coding.py --num-runs 50 --trace {replacing,clearing,accumulating} --learning-rate {0.5,0.5,0.1}
tiles-book-{replacing,clearing,accumulating} | 1 | 1 | python algos/tile_coding.py --num-runs 50 --trace {replacing,clearing,accumulating} --learning-rate {0.5,0.5,0.1} --max-steps 10000 --total-episodes 20

[td_lambda]
# Example 6.2 and Figure 6.2: TD(0) and Monte Carlo on five states, episode by episode and in batches
td-walk-td           | 1 | 1 | python algos/td_lambda.py $walk5 --method n-step 1 --learning-rate 0.05 0.1 0.15
td-walk-monte-carlo  | 1 | 1 | python algos/td_lambda.py $walk5 --method n-step 10000 --learning-rate 0.01 0.02 0.03 0.04
td-batch-{td,monte-carlo} | 1 | 1 | python algos/td_lambda.py $walk5 --method batch {0,1} --learning-rate 0.1
# Figure 7.2: n-step TD on nineteen states
td-n-step-{1,2,4,8,16,32,64,128,256,512} | 1 | 1 | python algos/td_lambda.py $walk19 --method n-step {1,2,4,8,16,32,64,128,256,512} --learning-rate 0.01 0.02 0.03 0.04 $to_1
# Figures 12.3, 12.6 and 12.8: the offline lambda-return, TD(lambda), true online TD(lambda)
td-lambda-return-{0,0.4,0.8,0.9,0.95,0.975,0.99,1} | 1 | 1 | python algos/td_lambda.py $walk19 --method lambda-return {0,0.4,0.8,0.9,0.95,0.975,0.99,1} --learning-rate 0.01 0.02 0.03 0.04 $to_1
td-td-lambda-{0,0.4}     | 1 | 1 | python algos/td_lambda.py $walk19 --method td-lambda {0,0.4} --learning-rate $to_1
td-td-lambda-{0.8,0.9}   | 1 | 1 | python algos/td_lambda.py $walk19 --method td-lambda {0.8,0.9} --learning-rate 0.05 0.1 0.15 0.2 0.25 0.3 0.35 0.4 0.45 0.5
td-td-lambda-{0.95,0.975,0.99,1} | 1 | 1 | python algos/td_lambda.py $walk19 --method td-lambda {0.95,0.975,0.99,1} --learning-rate $to_05 {0.1 0.15 0.2,0.1 0.15,0.07,0.06}
td-true-online-{0,0.4,0.8,0.9,0.95,0.975,0.99,1} | 1 | 1 | python algos/td_lambda.py $walk19 --method true-online {0,0.4,0.8,0.9,0.95,0.975,0.99,1} --learning-rate 0.01 0.02 0.03 0.04 $to_1

[dynamic_programming]
# the book's numbers: Figure 4.1, its sweeps until nothing changes by 0.0001, Example 3.5
dp-random-4x4{-1,-2,-3,-10,} | 1 | 1 | python algos/dynamic_programming.py --evaluation-sweeps 0 {--total-sweeps 1,--total-sweeps 2,--total-sweeps 3,--total-sweeps 10,}
dp-theta{,-in-place}     | 1 | 1 | python algos/dynamic_programming.py --evaluation-sweeps 0 --theta 0.0001 {--no-in-place,--in-place}
dp-random-5x5            | 1 | 1 | python algos/dynamic_programming.py --evaluation-sweeps 0 --env-id gridworld-5x5 --gamma 0.9
# FrozenLake without a discount, and with Gymnasium's time limit of 100 steps and a discount that hardly counts
dp-frozenlake-{k1,100}   | 1 | 1 | python algos/dynamic_programming.py --env-id FrozenLake-v1 {,--gamma 0.999 --max-episode-steps 100}
# from value iteration (1) to policy iteration (all)
dp-$worlds-k1    | 1 | 1 | python algos/dynamic_programming.py $world --evaluation-sweeps 1
dp-$worlds-k2    | 1 | 1 | python algos/dynamic_programming.py $world --evaluation-sweeps 2
dp-$worlds-k5    | 1 | 1 | python algos/dynamic_programming.py $world --evaluation-sweeps 5
dp-$worlds-k10   | 1 | 1 | python algos/dynamic_programming.py $world --evaluation-sweeps 10
dp-$worlds-k100  | 1 | 1 | python algos/dynamic_programming.py $world --evaluation-sweeps 100
dp-$worlds-all   | 1 | 1 | python algos/dynamic_programming.py $world --evaluation-sweeps 1000000
dp-$worlds-k1-in-place  | 1 | 1 | python algos/dynamic_programming.py $world --evaluation-sweeps 1 --in-place

[reinforce_mnist]
# the lecture's rewards, without and with a baseline; without one, large rewards get a tenth of the learning rate
digits-reward-{0,10,minus10}-none | 1-3 | 1 | python algos/reinforce_mnist.py --dataset mnist --reward-wrong={0,10,-10} --learning-rate {0.1,0.01,0.01}
digits-reward-{0,10,minus10}-mean | 1-3 | 1 | python algos/reinforce_mnist.py --dataset mnist --reward-wrong={0,10,-10} --baseline mean
digits-full-step-{10,minus10}     | 1-3 | 1 | python algos/reinforce_mnist.py --dataset mnist --reward-wrong={10,-10}
# rewards 0 and 1 at larger learning rates, without and with a baseline; the labels themselves
digits-rate-{0.3-none,1-none,0.3-mean,1-mean} | 1-3 | 1 | python algos/reinforce_mnist.py --dataset mnist --learning-rate {0.3,1,0.3,1} {,,--baseline mean,--baseline mean}
digits-cross-entropy              | 1-3 | 1 | python -m benchmarks.cross_entropy_mnist

[es_mnist]
# perturbed weights, and backpropagation, which takes the network for a linear one
es-mnist-low-rank   | 1   | 1 | python algos/es_mnist.py --dataset mnist --learning-rate 0.003 --total-timesteps 60000000
es-mnist-backprop   | 1   | 1 | python -m benchmarks.es_mnist_backprop

[node_perturbation_mnist]
node-mnist-{20m,300m} | 1 | 1 | python algos/node_perturbation_mnist.py --dataset mnist --learning-rate {0.0003,0.00005 --weight-decay 0.03} --total-timesteps {20000000,300000000} --log-every {1000,5000}

[pixelcnn]
# small networks, in CPU seconds: MNIST for an hour of one core, CIFAR-10 for two; then as large as a GPU allows
pixelcnn-mnist-hour    | 1 | 1  | python benchmarks/cpu_clock.py gen/pixelcnn.py --dataset mnist --channels 32 --layers 6 --bf16 --batch-size 16 --updates 15000 --log-every 500
pixelcnn-cifar10-hours | 1 | 1  | python benchmarks/cpu_clock.py gen/pixelcnn.py --dataset cifar10 --levels 256 --channels 48 --bf16 --batch-size 16 --updates 16000 --log-every 1000
pixelcnn-mnist-long    | 1 | 8+ | python gen/pixelcnn.py --dataset mnist --bf16 --channels 96 --layers 8 --batch-size 64 --updates 28000 --log-every 900 --eval-images 10000
pixelcnn-cifar10-long  | 1 | 8+ | python gen/pixelcnn.py --dataset cifar10 --levels 256 --bf16 --channels 192 --layers 12 --batch-size 64 --updates 23000 --log-every 800 --eval-images 10000

[tradeoffs]
# the lecture's table: PixelCNN, GAN, RealNVP and VAE on the same pictures, each trained for a minute or two
tradeoffs | 1 | 1 | python -m benchmarks.tradeoffs

[vae]
# PyTorch's example: its test loss, and CPU seconds per epoch beside its own code
vae-mnist-{float32,bf16}  | 1-3 | 1   | python gen/vae.py --dataset mnist --epochs 10 {,--bf16}
vae-speed-{float32,bf16}  | 1-3 | all | python benchmarks/cpu_clock.py gen/vae.py --dataset mnist --epochs 3 {,--bf16}
examples-{vae,speed}      | {1,1-3} | {1,all} | python -m benchmarks.peers.examples_vae --epochs {10,3}
# the post's steps: one image, a one-hot code, the autoencoder, the VAE; then a code of two dimensions
vae-steps        | 1 | 1 | python -m benchmarks.vae_steps
vae-{autoencoder,plane} | 1 | 1 | python gen/vae.py --dataset mnist --epochs 10 {--kl-weight 0,--latent-dim 2}
# the colour DRAW post's open question: the weight of the KL divergence beside half the squared error
vae-weight-{0.1,0.3,1,3,10}  | 1 | 1 | python -m benchmarks.squared_error_vae --dataset mnist --epochs 5 --kl-weight {0.1,0.3,1,3,10}

[iwae]
# Burda et al., one stochastic layer: their 3,280 epochs are eight stages; here as many as a CPU finishes
iwae-{k1-stages3,k50-stages3,k1-stages4,k50-stages4,k1-stages5,k1-stages6} | 1 | 1 | python gen/iwae.py --dataset mnist --stages {3,3,4,4,5,6} --k {1,50,1,50,1,1}
iwae-{k1,k50}-paper    | 1 | 8+ | python gen/iwae.py --dataset mnist --stages 8 --k {1,50}

[nice]
# MNIST with the paper's network: three epochs, forty (half an hour of one core), and the paper's 1,500 for a GPU
nice-mnist{,-long} | 1 | 1  | python gen/nice.py --dataset mnist --layers 5 --hidden 1000 --epochs {3,40} --batch-size 250 --bf16
nice-paper       | 1 | 8+ | python gen/nice.py --dataset mnist --layers 5 --hidden 1000 --epochs 1500 --batch-size 250 --bf16

[realnvp]
# CIFAR-10: bits per dimension and images per second beside chrischute/real-nvp, at two sizes; an hour; then the paper's size
realnvp-cifar10-{float32,bf16}  | 1 | all | python benchmarks/cpu_clock.py gen/realnvp.py --dataset cifar10 --updates 350 {,--bf16}
realnvp-large-{float32,bf16}    | 1 | all | python benchmarks/cpu_clock.py gen/realnvp.py --dataset cifar10 --channels 64 --blocks 8 --updates 8 --log-every 4 --eval-images 4 {,--bf16}
chrischute-{small,large}        | 1 | all | python -m benchmarks.peers.chrischute_realnvp {--channels 32 --blocks 2,--updates 8 --log-every 1 --eval-images 4}
realnvp-cifar10-{hour,paper}    | 1 | {1,8+} | python gen/realnvp.py --dataset cifar10 {--bf16 --updates 10000 --log-every 500 --eval-images 1000,--channels 64 --blocks 8 --batch-size 64 --updates 80000 --log-every 1000 --eval-images 10000}

[flow_2d]
# densities in the plane that are known; those with holes and gaps take twice the couplings
flow-moons                      | 1-3 | 1 | python gen/flow_2d.py
flow-{rings,spirals,gaussians}  | 1-3 | 1 | python gen/flow_2d.py --dataset {rings,spirals,gaussians} --couplings 24 --batch-size 1000 --updates {3000,3000,6000}

[vae_gan]
# errors in a discriminator's features beside errors of pixels, with the same networks
vaegan-mnist-{vae-gan,vae} | 1-3 | 1 | python -m benchmarks.frechet {gen/vae_gan,benchmarks/pixel_vae}.py --dataset mnist --bf16 --epochs 3 {,--noise-std 0.5}
vaegan-cifar10-{vae-gan,vae} | 1 | 1 | python -m benchmarks.frechet {gen/vae_gan,benchmarks/pixel_vae}.py --dataset cifar10 --bf16 --epochs 10 --latent-dim 128 --noise-std 0.5

[gan]
# the post's 5,700 updates on MNIST and CIFAR-10, a third of them at other learning rates; then 100,000, as is published
gan-mnist         | 1-3 | 1  | python -m benchmarks.frechet gen/gan.py --dataset mnist --bf16 --updates 5700 --log-every 300
gan-rate-{00005,0005,005,05}  | 1-2 | 1 | python -m benchmarks.frechet gen/gan.py --dataset mnist --bf16 --updates 1900 --log-every 100 --learning-rate {0.00005,0.0005,0.005,0.05}
gan-cifar10       | 1   | 1  | python -m benchmarks.frechet gen/gan.py --dataset cifar10 --image-size 32 --bf16 --updates 5700 --log-every 300 --learning-rate 0.0002
gan-cifar10-long  | 1   | 8+ | python -m benchmarks.frechet gen/gan.py --dataset cifar10 --image-size 32 --width 128 --updates 100000 --log-every 5000 --learning-rate 0.0002
# images per second beside PyTorch's example, at 64 pixels with its widths
gan-speed-{float32,bf16}  | 1-3 | all | python benchmarks/cpu_clock.py gen/gan.py --dataset cifar10 --image-size 64 --width 64 --updates 30 --log-every 5 {,--bf16}
examples-dcgan            | 1-3 | all | python -m benchmarks.peers.examples_dcgan --updates 30

[infogan]
# MNIST: the paper's codes
infogan-mnist     | 1-3 | 1  | python -m benchmarks.frechet gen/infogan.py --dataset mnist --bf16 --updates 5700 --log-every 300

[draw]
# the bound on binarized MNIST: as far as a CPU gets in a quarter of an hour; then the full schedules, the last for a GPU
draw-mnist-{attention,fixed,whole} | 1 | 1 | python gen/draw.py --dataset mnist --epochs 12 {,--binarize static,--no-attention}
draw-full-{attention,whole}   | 1-3 | {1,8+} | python gen/draw.py --dataset mnist --epochs 60 {,--no-attention}
draw-paper                    | 1   | 8+ | python gen/draw.py --dataset mnist --binarize static --read-size 2 --num-steps 64 --epochs 100
# how the first updates go: filters and canvas as they start here and as in most code
draw-start-{default,canvas,filters,both}  | 1 | 1 | python -m benchmarks.draw_start {,--zero-canvas,--zero-filters,--zero-canvas --zero-filters}

[draw_color]
# the post's proposals on cartoons: a larger code, more steps, ten times as long; then its 2,400 updates
draw-color-{base,z,steps,long,post} | 1 | 1 | $emoji gen/draw_color.py --data-dir data/emoji --latent-dim {10,100,10,10,10} --num-steps {10,10,32,10,10} --epochs {2,2,2,20,44}

[revnet]
# CIFAR-10 with both backward passes, in minutes and in an hour of a CPU; then the paper's 80,000 updates, for a GPU
revnet-cifar10{,-stored}  | 1   | 1  | python gen/revnet.py --dataset cifar10 --batch-size 100 --updates 250 --log-every 50 {,--store-activations}
revnet-hour{,-stored}     | 1   | 1  | python gen/revnet.py --dataset cifar10 --bf16 --batch-size 100 --updates 6000 --log-every 500 {,--store-activations}
revnet-long{,-stored}     | 1-3 | 8+ | python gen/revnet.py --dataset cifar10 --batch-size 100 --updates 80000 --log-every 500 {,--store-activations}
revnet-110-long           | 1   | 8+ | python gen/revnet.py --dataset cifar10 --batch-size 100 --updates 80000 --log-every 500 --blocks 9 --channels 16 32 64
# CPU seconds of an update; MB stored for the backward pass, over the number of blocks
revnet-speed-{computed,stored}  | 1-3 | all | python benchmarks/cpu_clock.py gen/revnet.py --dataset cifar10 --batch-size 100 --updates 15 --log-every 5 {,--store-activations}
revnet-memory                    | 1   | 1   | python -m benchmarks.revnet_memory

[chat_rnn]
# the built-in chat, whose entropy is known; the real one, beside counting (Kneser-Ney) on the same split and vocabulary
chat-grammar     | 1-3 | 1 | python -m benchmarks.chat_judge
chat-ubuntu      | 1   | 1 | $ubuntu benchmarks/chat_judge.py $messages --epochs 7 --learning-rate 0.003
chat-kneser-ney  | 1   | 1 | $ubuntu benchmarks/kneser_ney.py $messages
# words per CPU second at 10,000 words and the same network, beside PyTorch's example
chat-speed-float32 | 1-3 | 1 | $timed gen/chat_rnn.py $messages --max-vocabulary 10000 --epochs 1
chat-speed-example | 1-3 | 1 | $ubuntu benchmarks/peers/examples_wlm.py $messages

[colorizer]
# the post's experiments on cartoons at 64 pixels; then its network at 256 pixels, for a GPU
colorizer-{first,none,blur,holes}  | 1 | 1  | $emoji benchmarks/colorizer_judge.py --data-dir data/emoji --width 32 --epochs 3 --hint {none --loss l2,none,blur,holes}
colorizer-{blur,holes}-long        | 1 | 8+ | $emoji gen/colorizer.py --data-dir data/emoji --width 64 --epochs 100 --size 256 --hint {blur,holes}

[deconvnet]
deconvnet-cifar10 | 1 | 1 | python gen/deconvnet.py --dataset cifar10 --epochs 5 --batch-size 100
TABLE
