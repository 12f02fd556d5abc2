"""The words of the experiments in which language matters, in English and in Chinese: as many in each, so that
an item is the same tokens in both."""

from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

FIRST = {
    "en": """Ada Alan Alice Amir Anna Arthur Beth Bruno Carla Carl Chloe Clara Cyrus Daniel Diana Dora Edgar
        Elena Eli Emma Erik Esther Felix Fiona Frank Freya George Gina Grace Hana Hans Helen Henry Ida
        Igor Iris Ivan Jack Jane Joel Julia Karl Kate Kira Lara Leo Lily Louis Lucy Marco Maria Max Mia
        Nadia Nina Noah Olga Oscar Paul Peter Rosa Ruth Sara Tom""",
    "zh": """王 李 张 刘 陈 杨 赵 黄 周 吴 徐 孙 胡 朱 高 林 何 郭 马 罗 梁 宋 郑 谢 韩 唐 冯 于 董 萧 程 曹
        袁 邓 许 傅 沈 曾 彭 吕 苏 卢 蒋 蔡 贾 丁 魏 薛 叶 阎 余 潘 杜 戴 夏 钟 汪 田 任 姜 范 方 石 姚""",
}
LAST = {
    "en": """Abbott Adler Archer Baker Barnes Bell Bishop Blake Brooks Carter Chase Clark Cole Cooper Cross
        Dalton Dean Drake Ellis Evans Farmer Fisher Fleming Ford Foster Fox Frost Gibson Grant Green
        Hale Harper Hayes Hill Holmes Hunt Irving Jensen Keller Kent King Lane Lloyd Mason Miller Moore
        Nash Norris Olsen Owens Palmer Parker Payne Quinn Reed Rhodes Shaw Stone Sutton Turner Vance
        Wells West Young""",
    "zh": """明 华 强 伟 芳 娜 敏 静 丽 军 磊 洋 勇 艳 杰 娟 涛 超 霞 平 刚 英 辉 玲 鹏 燕 波 红 宁 颖 欣 宇
        浩 凯 健 俊 帆 雪 倩 琳 晶 洁 莉 岚 翔 峰 龙 云 飞 博 文 斌 琴 蕾 薇 瑶 楠 彬 森 淼 皓 阳 晨 曦""",
}
ATTRIBUTES = {"en": ("city", "job", "year", "food"), "zh": ("城市", "职业", "年份", "食物")}
CITIES = {
    "en": """Athens Berlin Bergen Boston Bruges Cairo Chicago Cork Dakar Delhi Denver Dublin Florence Geneva
        Genoa Ghent Hanoi Havana Helsinki Istanbul Jakarta Kyiv Krakow Lagos Leeds Lima Lisbon London
        Lyon Madrid Malaga Manila Milan Munich Nairobi Naples Oslo Ottawa Paris Porto Prague Riga Rome
        Seoul Sofia Sydney Tokyo Turin Vienna Zurich""",
    "zh": """北京 上海 广州 深圳 天津 重庆 成都 武汉 西安 南京 杭州 苏州 青岛 大连 厦门 宁波 无锡 长沙 郑州
        济南 福州 合肥 昆明 贵阳 南宁 海口 三亚 太原 兰州 银川 西宁 拉萨 沈阳 长春 吉林 徐州 扬州 温州
        绍兴 嘉兴 金华 台州 泉州 漳州 珠海 佛山 东莞 中山 洛阳 开封""",
}
JOBS = {
    "en": """actor architect artist baker banker barber botanist builder butcher carpenter chef chemist clerk
        coach dentist designer doctor driver editor engineer farmer fireman florist gardener geologist
        glazier hunter jeweller journalist judge lawyer librarian mason mechanic miner musician nurse
        painter pharmacist pilot plumber poet porter potter sailor sculptor singer tailor teacher weaver""",
    "zh": """演员 建筑师 画家 面包师 银行家 理发师 园艺师 木匠 厨师 化学家 店员 教练 牙医 设计师 医生 司机
        编辑 工程师 农民 消防员 花匠 地质学家 猎人 珠宝商 记者 法官 律师 图书管理员 石匠 技工 矿工
        音乐家 护士 油漆工 药剂师 飞行员 水管工 诗人 搬运工 陶艺家 水手 雕塑家 歌手 裁缝 教师 织工 会计
        翻译 警察 渔民""",
}
YEARS = " ".join(str(year) for year in range(1950, 2000))
FOODS = {
    "en": """apples bacon bananas barley beans beef beetroot bread broccoli butter cabbage cake carrots
        celery cheese cherries chicken chocolate corn crab dates duck eggs figs fish garlic grapes ham
        honey lamb lemons lentils lettuce mangoes melon mushrooms noodles nuts olives onions oranges
        pasta peaches pears peas plums potatoes rice salmon spinach""",
    "zh": """苹果 香蕉 大麦 豆子 牛肉 面包 西兰花 黄油 白菜 蛋糕 胡萝卜 芹菜 奶酪 樱桃 鸡肉 巧克力 玉米 螃蟹
        红枣 鸭肉 鸡蛋 鱼 大蒜 葡萄 火腿 蜂蜜 羊肉 柠檬 扁豆 生菜 芒果 甜瓜 蘑菇 面条 坚果 橄榄 洋葱
        橙子 桃子 梨 豌豆 李子 土豆 米饭 三文鱼 菠菜 豆腐 饺子 包子 馒头""",
}
THINGS = {
    "en": """anchor ant apron arrow axe bag ball barn basin basket bat beach bear bed bee bench bicycle bird
        boat bone book boot bottle bowl box bridge broom brush bucket button cage camel candle cap card
        castle cat chain chair clock cloud coat coin comb crown cup deer desk dog doll donkey door drum
        eagle ear engine eye fan feather fence flag flower flute forest fork fountain frog garden gate
        ghost glass glove goat guitar hammer hand harp hat hawk hen hill horn horse house island jar
        jacket key kite knife ladder lake lamp leaf lion lock""",
    "zh": """铁锚 蚂蚁 围裙 弓箭 斧头 书包 皮球 谷仓 脸盆 篮子 蝙蝠 海滩 狗熊 木床 蜜蜂 长凳 单车 小鸟 小船
        骨头 书本 靴子 瓶子 大碗 盒子 桥梁 扫帚 刷子 水桶 纽扣 笼子 骆驼 蜡烛 帽子 卡片 城堡 小猫 锁链
        椅子 时钟 白云 大衣 硬币 梳子 皇冠 杯子 小鹿 书桌 小狗 娃娃 毛驴 大门 大鼓 老鹰 耳朵 引擎 眼睛
        风扇 羽毛 篱笆 旗帜 鲜花 长笛 森林 叉子 喷泉 青蛙 花园 栅门 鬼怪 玻璃 手套 山羊 吉他 锤子 手掌
        竖琴 草帽 飞鹰 母鸡 山丘 号角 骏马 房屋 海岛 罐子 夹克 钥匙 风筝 小刀 梯子 湖泊 台灯 树叶 狮子
        门锁""",
}
COLOURS = {
    "en": "red blue green yellow black white brown purple",
    "zh": "红色 蓝色 绿色 黄色 黑色 白色 棕色 紫色",
}
MODES = {  # how a question begins: its answer may go beyond the passages, or may not
    "en": "beyond only strictly solely",
    "zh": "不限于 仅按 严格按 只凭",
}
PASSAGES = {"en": "text passage source", "zh": "原文 段落 资料"}
UNKNOWN = {"en": "unknown", "zh": "不知道"}


def words(table: dict[str, str], language: Language) -> list[str]:
    """The words of a table in a language."""
    return table[language].split()


def attribute_values(language: Language) -> list[list[str]]:
    """The values of each of `ATTRIBUTES`, 50 each."""
    return [words(CITIES, language), words(JOBS, language), YEARS.split(), words(FOODS, language)]
